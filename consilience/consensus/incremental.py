"""A fitted consensus brought up to date with new scores, without fitting it again."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix, as_matrix
from consilience.consensus.model import ConsensusModel
from consilience.consensus.past import Past, coefficients, quintiles, remember
from consilience.consensus.posterior import Parameters, Shard, Statistics
from consilience.consensus.truncated_normal import SIGMA_MAX
from consilience.errors import UserError

Floats = NDArray[np.float64]
Scores = ScoreMatrix | pd.DataFrame


def with_past(model: ConsensusModel, shard: Shard) -> ConsensusModel:
    """`model` with the past that `update` and `drift_alarm` need, from the tasks it was fitted on."""
    return replace(model, past=remember(shard, model.parameters, quintiles(shard.matrix)))


def update(model: ConsensusModel, scores: Scores, before: Scores | None = None) -> ConsensusModel:
    """The consensus after new scores: EM over the tasks that they touch, while the others follow to first order.

    New items need only their own scores. Where new scores join tasks that the model has counted already (a new
    annotator, a filled gap, a realigned model's answers), those tasks are counted afresh: `scores` then holds all of
    their scores, old and new, and `before` the old ones.

    Args:
        model: with its past (see `with_past`; the `consensus_model.json` of a run has it); fitted without gold.
        scores: matrix, or table of item_id, theory, annotator, score, of the touched tasks. Annotators may be new, and
            so may theories where parameters and prior are shared by all theories.
        before: what of these tasks `model` has counted; None if all of them are new.

    Returns:
        A new model with the same orientation; annotators and theories that are new come last.

    Raises:
        UserError: a model without a past, bad scores (see `ScoreMatrix.from_frame`), a new theory where parameters or
            prior are per theory, an annotator in `before` that the model does not know, a task in `before` that is
            not in `scores`, or new scores so unlike the old ones that first order does not reach.
    """
    if model.past is None:
        raise UserError("this consensus was saved without its past: fit it again on all annotations")
    matrix = as_matrix(scores)
    grown = _grown(model if before is None else _without(model, as_matrix(before), matrix), matrix)
    assert grown.past is not None
    shard = Shard(arranged(matrix, grown.annotators, grown.theories))
    known, start, curvature = grown.statistics, coefficients(grown.parameters), grown.past.curvature

    def step(parameters: Parameters | None) -> Statistics:
        assert parameters is not None
        shift = coefficients(parameters) - start
        change = np.einsum("tij,tj->ti", curvature, shift)
        slope = np.column_stack([known.gamma, known.class1.reshape(len(shift), -1)])
        moved = replace(
            known,
            gamma=known.gamma + change[:, 0],
            class1=known.class1 + change[:, 1:].reshape(known.class1.shape),
            log_odds=known.log_odds + float(np.sum(shift * (slope + 0.5 * change))),
        )
        return moved + shard.step(parameters)

    updated = TruncatedNormalEM.resume(grown, step)
    edges = grown.past.edges.copy()
    edges[len(model.annotators) :] = quintiles(shard.matrix)[len(model.annotators) :]
    past = replace(grown.past, edges=edges) + remember(shard, updated.parameters, edges)
    return replace(updated, past=past)


def _without(model: ConsensusModel, before: ScoreMatrix, matrix: ScoreMatrix) -> ConsensusModel:
    """`model` less the tasks of `before`, all of which are in `matrix`."""
    lost = pd.MultiIndex.from_frame(before.task_frame()).difference(pd.MultiIndex.from_frame(matrix.task_frame()))
    if len(lost):
        item, theory = lost[0]
        raise UserError(
            f"before: item_id={item!r}, theory={theory!r} is not among the new scores; expected all of them"
        )
    strange = [name for name in before.annotators if name not in model.annotators]
    if strange:
        raise UserError(f"before: annotator '{strange[0]}' was not in the fit; expected only scores that were")
    shard = Shard(arranged(before, model.annotators, model.theories))
    counted = shard.step(model.parameters)
    assert model.past is not None
    return replace(
        model,
        statistics=Statistics(**{name: sums - getattr(counted, name) for name, sums in vars(model.statistics).items()}),
        past=model.past - remember(shard, model.parameters, model.past.edges),
    )


def _grown(model: ConsensusModel, matrix: ScoreMatrix) -> ConsensusModel:
    """`model` with room for the annotators and theories that only `matrix` has; a new annotator says nothing yet."""
    annotators = model.annotators + [name for name in matrix.annotators if name not in model.annotators]
    theories = model.theories + [name for name in matrix.theories if name not in model.theories]
    T, M, old_T, old_M = len(theories), len(annotators), len(model.theories), len(model.annotators)
    parameters, statistics, past = model.parameters_of(theories), model.statistics, model.past
    assert past is not None
    new = ((0, 0), (0, 0), (0, M - old_M))
    shapes = Past.shapes(T, M)
    counts = np.zeros(shapes["counts"])
    counts[:old_M, :old_M, :old_T] = past.counts[:-1]
    counts[old_M:, :old_M, :old_T] = past.counts[-1]  # a new annotator had no say in any verdict
    return replace(
        model,
        annotators=annotators,
        theories=theories,
        parameters=Parameters(
            np.pad(parameters.mu, new, constant_values=0.5),
            np.pad(parameters.sigma, new, constant_values=SIGMA_MAX),
            parameters.prior,
        ),
        statistics=Statistics(
            tasks=_padded(statistics.tasks, (T,)),
            gamma=_padded(statistics.gamma, (T,)),
            totals=_padded(statistics.totals, (T, M, 3)),
            class1=_padded(statistics.class1, (T, M, 3)),
            log_odds=statistics.log_odds,
            gold_evidence=_padded(statistics.gold_evidence, (T,)),
        ),
        past=Past(_padded(past.curvature, shapes["curvature"]), _padded(past.edges, shapes["edges"]), counts),
    )


def arranged(matrix: ScoreMatrix, annotators: Sequence[str], theories: Sequence[str]) -> ScoreMatrix:
    """The scores by `annotators` under `theories`, in this order; others are left out, absent ones have none."""
    slices = matrix.theory_slices
    parts = [np.arange(len(matrix.items))[slices.get(theory, slice(0))] for theory in theories]
    order = np.concatenate(parts)
    scores = np.full((len(annotators), len(order)), np.nan)
    for row, name in zip(matrix.scores, matrix.annotators, strict=True):
        if name in annotators:
            scores[annotators.index(name)] = row[order]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return ScoreMatrix(list(annotators), list(theories), matrix.items[order], offsets, scores)


def _padded(values: Floats, shape: tuple[int, ...]) -> Floats:
    """`values` with zeros after them, up to `shape`."""
    return np.pad(values, [(0, new - old) for old, new in zip(values.shape, shape, strict=True)])
