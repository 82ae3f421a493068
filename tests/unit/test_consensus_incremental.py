"""A saved consensus brought up to date: equal to the refit within the stated tolerance."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from consensus_simulation import PUBLISHED, draw, matrix_of

from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.incremental import arranged, update, with_past
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.model import ConsensusModel
from consilience.consensus.past import coefficients, quintiles, remember
from consilience.consensus.posterior import Shard
from consilience.errors import UserError

POOL = np.vstack([PUBLISHED, [[0.7, 0.2, 0.3, 0.2], [0.6, 0.25, 0.45, 0.25]]])
THEORIES = ["justice", "virtue", "commonsense"]


def scored(tasks: int, seed: int) -> ScoreMatrix:
    scores = draw(tasks, seed, POOL)[1]
    scores[5, ::7] = np.nan
    return matrix_of(scores, [THEORIES[i % 3] for i in range(tasks)])


def items(matrix: ScoreMatrix, low: int, high: int) -> ScoreMatrix:
    number = matrix.items.astype(int)
    return matrix.take(np.flatnonzero((number >= low) & (number < high)))


def fitted(matrix: ScoreMatrix, **settings: object) -> ConsensusModel:
    return with_past(TruncatedNormalEM(**settings).fit(matrix).model_, Shard(matrix))


def assert_near(updated: ConsensusModel, refit: ConsensusModel, data: ScoreMatrix, parameter: float, gamma: float):
    ours = [updated.annotators.index(name) for name in refit.annotators]
    np.testing.assert_allclose(updated.parameters.mu[..., ours], refit.parameters.mu, atol=parameter)
    np.testing.assert_allclose(updated.parameters.sigma[..., ours], refit.parameters.sigma, atol=parameter)
    first, second = updated.predict(data), refit.predict(data)
    np.testing.assert_allclose(first["consensus"], second["consensus"], atol=gamma)
    assert updated.statistics.tasks.sum() == refit.statistics.tasks.sum()
    np.testing.assert_allclose(updated.statistics.totals[:, ours], refit.statistics.totals, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("more", "batches"), [(120, 1), (120, 5), (600, 1), (600, 10)])
@pytest.mark.parametrize("settings", [{}, {"prior": "per_theory"}])
def test_new_items_equal_the_refit(seed: int, more: int, batches: int, settings: dict) -> None:
    data = scored(600 + more, seed)
    model = fitted(items(data, 0, 600), **settings)
    ends = np.linspace(600, 600 + more, batches + 1).astype(int)
    for low, high in itertools.pairwise(ends):
        model = update(model, items(data, low, high))
    assert_near(model, fitted(data, **settings), data, parameter=0.002, gamma=0.03)


def test_parameters_per_theory() -> None:
    data = scored(1800, 0)
    model = fitted(items(data, 0, 1500), parameters="per_theory", prior="per_theory")
    refit = fitted(data, parameters="per_theory", prior="per_theory")
    assert_near(update(model, items(data, 1500, 1800)), refit, data, parameter=0.005, gamma=0.05)


def test_old_tasks_follow_where_plain_incremental_em_leaves_them_behind() -> None:
    data = scored(1200, 1)
    model, refit = fitted(items(data, 0, 600)), fitted(data)
    still = ConsensusModel(**{**vars(model), "past": model.past - model.past})

    def error(updated: ConsensusModel) -> float:
        return float(np.abs(updated.parameters.mu - refit.parameters.mu).max())

    assert error(update(model, items(data, 600, 1200))) < 0.5 * error(update(still, items(data, 600, 1200)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("every", [1, 2])
def test_a_new_annotator_on_known_items_equals_the_refit(seed: int, every: int) -> None:
    data = scored(600, seed)
    data.scores[0, np.arange(600) % every > 0] = np.nan
    old = arranged(data, data.annotators[1:], data.theories)
    touched = np.flatnonzero(~np.isnan(data.scores[0]))
    model = update(fitted(old), data.take(touched), old.take(touched))
    assert model.annotators == [*old.annotators, "a0"]
    assert_near(model, fitted(data), data, parameter=0.002, gamma=0.02)


def test_a_new_annotator_on_new_items_and_a_new_theory() -> None:
    data = scored(900, 0)
    number = data.items.astype(int)
    first = np.flatnonzero((number < 700) & (np.repeat(data.theories, np.diff(data.offsets)) != "virtue"))
    old = arranged(data.take(first), data.annotators[:5], ["commonsense", "justice"])
    rest = data.take(np.setdiff1d(np.arange(900), first))
    model = update(fitted(old), rest)
    assert model.theories == ["commonsense", "justice", "virtue"]
    both = ScoreMatrix(data.annotators, data.theories, data.items, data.offsets, data.scores.copy())
    both.scores[5, first] = np.nan
    assert_near(model, fitted(both), both, parameter=0.005, gamma=0.05)


def test_replacing_scores_counts_tasks_once() -> None:
    data = scored(600, 0)
    model = fitted(data)
    again = update(model, data, data)
    np.testing.assert_allclose(again.parameters.mu, model.parameters.mu, atol=1e-3)
    np.testing.assert_allclose(again.statistics.totals, model.statistics.totals, atol=1e-9)
    assert again.past.counts[-1].sum() == model.past.counts[-1].sum()


def test_tables_will_do_and_the_file_holds_all_that_is_needed(tmp_path: Path) -> None:
    data = scored(300, 0)
    model = fitted(items(data, 0, 200))
    model.save(tmp_path / "consensus_model.json")
    loaded = ConsensusModel.load(tmp_path / "consensus_model.json")
    new = items(data, 200, 300)
    wide = new.task_frame(**dict(zip(new.annotators, new.scores, strict=True)))
    long = wide.melt(["item_id", "theory"], var_name="annotator", value_name="score").sample(frac=1.0, random_state=0)
    np.testing.assert_allclose(update(loaded, long).parameters.mu, update(model, new).parameters.mu, atol=1e-9)
    bare = TruncatedNormalEM().fit(data).model_
    bare.save(tmp_path / "bare.json")
    with pytest.raises(UserError, match="without its past"):
        update(ConsensusModel.load(tmp_path / "bare.json"), new)


def test_noise_floors_are_kept() -> None:
    data = scored(300, 0)
    model = fitted(items(data, 0, 200), noise_sd={"a0": 0.3})
    updated = update(model, items(data, 200, 300))
    assert updated.settings.noise_sd == {"a0": 0.3}
    assert updated.parameters.sigma[:, 0, 0].min() >= 0.3


@pytest.mark.parametrize(("old", "new", "prior"), [(30, 3000, 0.02), (1000, 1000, 0.98)])
def test_what_first_order_does_not_reach_is_refused(old: int, new: int, prior: float) -> None:
    scores = np.hstack([draw(old, 0)[1], draw(new, 1, prior=prior)[1]])
    data = matrix_of(scores)
    with pytest.raises(UserError, match="further from the saved one than an update can follow; fit it again"):
        update(fitted(items(data, 0, old)), items(data, old, old + new))


def test_mistakes() -> None:
    data = scored(300, 0)
    model = fitted(items(data, 0, 200))
    with pytest.raises(UserError, match="before: item_id='0', theory='justice' is not among the new scores"):
        update(model, items(data, 200, 300), items(data, 0, 1))
    stranger = matrix_of(data.scores[:1, :3])
    stranger.annotators[0] = "stranger"
    with pytest.raises(UserError, match="before: annotator 'stranger' was not in the fit"):
        update(model, stranger, stranger)
    per_theory = fitted(items(data, 0, 200), prior="per_theory")
    with pytest.raises(UserError, match="unknown theory 'deontology'"):
        update(per_theory, matrix_of(data.scores[:, :9], ["deontology"] * 9))


def test_curvature_is_the_derivative_of_the_statistics() -> None:
    data = scored(200, 0)
    gold = pd.DataFrame({"item_id": ["0", "4"], "theory": ["justice", "virtue"], "label": [1.0, 0.3]})
    shard = Shard(data, gold)
    model = TruncatedNormalEM(prior="per_theory").fit(data, gold).model_
    at, step = model.parameters, 1e-5
    curvature = remember(shard, at, quintiles(data)).curvature
    for field, index in [("mu", (1, 0, 2)), ("sigma", (0, 0, 5)), ("prior", (1,))]:
        moved = []
        for sign in (1.0, -1.0):
            values = {**vars(at), field: getattr(at, field).copy()}
            values[field][index] += sign * step
            parameters = type(at)(**values)
            statistics = shard.step(parameters)
            sums = np.column_stack([statistics.gamma, statistics.class1.reshape(3, -1)])
            moved.append((coefficients(parameters), sums))
        change = moved[0][1] - moved[1][1]
        expected = np.einsum("tij,tj->ti", curvature, moved[0][0] - moved[1][0])
        np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-7)


def test_past_of_shards_adds_up() -> None:
    data = scored(300, 0)
    model = TruncatedNormalEM().fit(data).model_
    edges = quintiles(data)
    whole = remember(Shard(data), model.parameters, edges)
    halves = [remember(Shard(data.take(np.arange(half, 300, 2))), model.parameters, edges) for half in (0, 1)]
    np.testing.assert_allclose((halves[0] + halves[1]).curvature, whole.curvature)
    np.testing.assert_array_equal((halves[0] + halves[1]).counts, whole.counts)
    np.testing.assert_array_equal(whole.counts[-1].sum(axis=(1, 2, 3)), np.sum(~np.isnan(data.scores), axis=1))
