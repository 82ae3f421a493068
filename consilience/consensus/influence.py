"""What annotators do to a consensus: with one and without it, and the most that some of them could do."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from consilience.consensus.baselines import mean
from consilience.consensus.calibrated import CalibratedModel
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.posterior import Parameters
from consilience.errors import UserError

MIN_ANNOTATORS = 4


def influence(matrix: ScoreMatrix, consensus: Callable[[ScoreMatrix], npt.NDArray[np.float64]]) -> pa.Table:
    """Influence of every annotator on the plain mean and on `consensus`, by leaving it out.

    Args:
        matrix: scores of at least `MIN_ANNOTATORS` annotators, so that three remain.
        consensus: fits a matrix and returns its (n_tasks,) consensus.

    Returns:
        The `influence` table: mean absolute change (0..1) and share of tasks whose label at 0.5 flips, each null
        where no task has both values, as where the others alone have no consensus.
    """
    full = {"mean": mean(matrix), "em": consensus(matrix)}
    rows = []
    for position, annotator in enumerate(matrix.annotators):
        rest = _without(matrix, position)
        try:
            left = {"mean": mean(rest), "em": consensus(rest)}
        except UserError:  # the others are no pool: too few of them answer, or none varies
            left = {"mean": mean(rest), "em": np.full(len(rest.items), np.nan)}
        row: dict[str, object] = {"annotator": annotator}
        for method, with_it in full.items():
            both = ~np.isnan(with_it) & ~np.isnan(left[method])
            a, b = with_it[both], left[method][both]
            row[f"{method}_shift"] = float(np.abs(a - b).mean()) if both.any() else None
            row[f"{method}_flipped"] = float(((a > 0.5) != (b > 0.5)).mean()) if both.any() else None
        rows.append(row)
    return pa.Table.from_pylist(rows)


def largest_em_shift(parameters: Parameters, annotators: Sequence[int]) -> npt.NDArray[np.float64]:
    r"""Most by which `annotators`, together, can move the EM's consensus of a task, whatever they answer, or if silent.

    Under fixed parameters an annotator adds $\ell(a) = \ln f_1(a) - \ln f_0(a)$ to a task's log-odds, or 0 if it is
    silent. So another answer moves them by the range of that at most, and R, the sum of the ranges, moves the
    probability by at most $\tanh(R / 4)$, reached where the two ends lie symmetrically about even odds. A new fit to
    attacked scores has no such bound.

    Args:
        parameters: of a fitted consensus.
        annotators: their positions in it.

    Returns:
        (T,) in 0..1.
    """
    constant, linear, square = np.moveaxis(parameters.log_ratio_coefficients()[:, list(annotators)], -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        turning = np.nan_to_num(np.clip(-0.5 * linear / square, 0.0, 1.0))
    ratios = np.stack([0.0 * constant, *(constant + a * (linear + a * square) for a in (0.0, 1.0, turning))])
    return np.tanh(0.25 * np.ptp(ratios, axis=0).sum(axis=-1))


def largest_calibrated_shift(model: CalibratedModel, annotators: Sequence[int]) -> float:
    """Most by which `annotators`, together, can move the calibrated consensus of a task that all have answered.

    A fitted calibrated consensus is linear in the scores of such a task, so the bound is the sum of their weights. A
    new fit to attacked scores has no such bound.

    Args:
        model: fitted.
        annotators: their positions in it.

    Returns:
        0 or more; the consensus lies in 0..1.
    """
    evidence = model.gain / model.noise_sd**2
    factor = model.slope * evidence / (1.0 + model.gain @ evidence)
    votes = np.maximum(1.0 - model.role[1], 1e-3) if model.trust > 0.0 else np.ones(len(evidence))
    weights = model.trust * factor + (1.0 - model.trust) * votes / votes.sum()
    return float(np.abs(weights[list(annotators)]).sum())


def _without(matrix: ScoreMatrix, position: int) -> ScoreMatrix:
    names = [name for row, name in enumerate(matrix.annotators) if row != position]
    scores = np.delete(matrix.scores, position, axis=0)
    return ScoreMatrix(names, matrix.theories, matrix.items, matrix.offsets, scores)
