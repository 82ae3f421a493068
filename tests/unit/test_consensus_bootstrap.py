"""Bootstrap intervals: what they cover, and that items rather than tasks are resampled."""

import numpy as np
import pandas as pd
import pytest
from consensus_simulation import PUBLISHED, draw, matrix_of

from consilience.consensus.agreement import krippendorff_alpha
from consilience.consensus.bootstrap import Bootstrap, alpha_interval, bootstrap
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.posterior import Parameters, Shard
from consilience.consensus.truncated_normal import jeffreys_divergence, mean_sd

UNINFORMATIVE = [0.5, 0.3, 0.5, 0.3]


def fitted(matrix: ScoreMatrix, draws: int = 40, gold: pd.DataFrame | None = None, **settings: object) -> Bootstrap:
    shard = Shard(matrix, gold)
    model = TruncatedNormalEM(**settings).fit(matrix, gold).model_
    return bootstrap(model, shard, draws)


def test_intervals_cover_the_truth_where_the_model_holds() -> None:
    parameters = np.vstack([PUBLISHED, UNINFORMATIVE])
    mu1, sigma1, mu0, sigma0 = parameters.T
    truth = {"ci": jeffreys_divergence(mu1, sigma1, mu0, sigma0), "mu1": mu1, "mu0": mu0}
    covered = []
    for seed in range(10):
        table = fitted(matrix_of(draw(300, seed, parameters)[1]), draws=50).reliability()
        covered.append([(table[f"{name}_low"] <= at) & (at <= table[f"{name}_high"]) for name, at in truth.items()])
    assert 0.85 < np.mean(covered) <= 1.0
    assert np.mean(covered, axis=0)[0, 4] > 0.9, "the interval of a useless annotator reaches down to 0"


def test_gamma_interval_covers_gamma_under_the_true_parameters() -> None:
    mu1, sigma1, mu0, sigma0 = PUBLISHED.T
    truth = Parameters(np.stack([mu0, mu1])[:, None], np.stack([sigma0, sigma1])[:, None], np.array([0.45]))
    covered = []
    for seed in range(5):
        matrix = matrix_of(draw(300, seed)[1])
        low, high = fitted(matrix, draws=50).consensus(matrix)
        gamma = Shard(matrix).posterior(truth)
        covered.append((low <= gamma) & (gamma <= high))
    assert 0.85 < np.mean(covered) <= 1.0


@pytest.mark.parametrize(("prior", "parameters"), [("global", "pooled"), ("per_theory", "per_theory"), (0.4, "pooled")])
def test_rows_and_bounds(prior: object, parameters: str) -> None:
    scores = draw(200, 0)[1]
    scores[2] = np.nan
    drawn = fitted(matrix_of(scores, ["justice", "virtue"] * 100), prior=prior, parameters=parameters)
    table, reliability = drawn.reliability(), drawn.model.reliability()
    pd.testing.assert_frame_equal(table[["annotator", "theory"]], reliability[["annotator", "theory"]])
    silent = reliability["n"] == 0
    assert table[silent].drop(columns=["annotator", "theory"]).isna().all(axis=None)
    assert (table["ci_low"] >= 0.0)[~silent].all()
    for name in ("ci", "mu1", "mu0"):
        assert (table[f"{name}_low"] <= table[f"{name}_high"])[~silent].all()
    assert (table["ci_low"] <= reliability["informativeness"])[~silent].all()


def test_every_draw_keeps_the_orientation_of_the_fit() -> None:
    scores = draw(60, 3, 0.5 + 0.4 * (PUBLISHED - 0.5))[1]  # weak annotators
    scores[0] = 1.0 - scores[0]
    drawn = fitted(matrix_of(scores), draws=80)
    difference = [np.diff(mean_sd(at.mu, at.sigma)[0], axis=0).ravel() for at in (drawn.model.parameters, *drawn.draws)]
    assert (np.array(difference[1:]) @ difference[0] >= 0.0).all()


def test_theories_of_an_item_are_drawn_together() -> None:
    _, once = draw(150, 0)
    five = ScoreMatrix.from_arrays(
        np.tile(once, 5),
        list("abcd"),
        np.tile(np.arange(150), 5),
        np.repeat(["justice", "virtue", "deontology", "utilitarianism", "commonsense"], 150),
    )
    single, copied = fitted(matrix_of(once), draws=100).reliability(), fitted(five, draws=100).reliability()
    width, same = single["mu1_high"] - single["mu1_low"], copied["mu1_high"] - copied["mu1_low"]
    np.testing.assert_allclose(same, width, rtol=0.35)  # five copies of a task hold no more than one


def test_gold_goes_with_its_items() -> None:
    label, scores = draw(120, 0, 0.5 + 0.3 * (PUBLISHED - 0.5))
    gold = pd.DataFrame({"item_id": [str(i) for i in range(0, 120, 2)], "theory": "justice", "label": label[::2] * 1.0})
    matrix = matrix_of(scores)
    shard = Shard(matrix, gold)
    part = shard.take(np.array([0, 0, 1, 4]))
    assert part.gold_task.tolist() == [0, 1, 3]
    np.testing.assert_array_equal(part.gold_label, label[[0, 0, 4]])
    with_gold, without = fitted(matrix, gold=gold).reliability(), fitted(matrix).reliability()
    assert (with_gold["mu1_high"] - with_gold["mu1_low"]).mean() < (without["mu1_high"] - without["mu1_low"]).mean()


def test_draws_repeat_and_alpha_is_covered() -> None:
    matrix = matrix_of(draw(150, 0)[1])
    pd.testing.assert_frame_equal(fitted(matrix, 5).reliability(), fitted(matrix, 5).reliability())
    limit = krippendorff_alpha(matrix_of(draw(20_000, 99)[1]))
    ends = np.array([alpha_interval(matrix_of(draw(150, seed)[1]), draws=200) for seed in range(40)])
    assert 0.82 < np.mean((ends[:, 0] <= limit) & (limit <= ends[:, 1])) <= 1.0
    assert np.isnan(alpha_interval(matrix_of(np.full((3, 8), 0.5)), draws=5)).all()
