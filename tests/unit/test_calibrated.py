"""The calibrated consensus on pools whose truth is known."""

import numpy as np
import pytest
from consensus_simulation import PUBLISHED, draw
from numpy.typing import NDArray

from consilience.consensus import baselines
from consilience.consensus.calibrated import CalibratedModel, fit_calibrated
from consilience.consensus.dependence import has_signal, shared_votes
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.shrinkage import shrunk_variance
from consilience.errors import UserError

Floats = NDArray[np.float64]
SHAPES = {"two modes": (0.6, 0.6), "one mode": (4.0, 4.0), "skewed": (2.0, 6.0)}


def pool(
    seed: int,
    annotators: int = 12,
    tasks: int = 200,
    shape: str = "two modes",
    reliability: tuple[float, float] = (0.3, 0.8),
) -> tuple[Floats, Floats]:
    """(M, N) scores of annotators with unequal bias, gain and noise, and the (N,) truth."""
    random = np.random.default_rng(seed)
    truth = random.beta(*SHAPES[shape], tasks)
    gain = random.uniform(0.5, 1.1, annotators)[:, None]
    squared = random.uniform(*reliability, annotators)[:, None]  # share of signal in an annotator's variance
    noise = gain * truth.std() * np.sqrt((1.0 - squared) / squared) * random.normal(size=(annotators, tasks))
    bias = random.normal(0.0, 0.08, annotators)[:, None]
    return np.clip(truth.mean() + bias + gain * (truth - truth.mean()) + noise, 0.0, 1.0), truth


def matrix_of(scores: Floats) -> ScoreMatrix:
    annotators, tasks = scores.shape
    items = [f"i{task:05d}" for task in range(tasks)]
    return ScoreMatrix.from_arrays(scores, [f"a{m:03d}" for m in range(annotators)], items, ["justice"] * tasks)


def fitted(scores: Floats) -> tuple[CalibratedModel, Floats]:
    matrix = matrix_of(scores)
    model = fit_calibrated(matrix)
    return model, model.predict(matrix).consensus


def correlation(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def error(consensus: Floats, target: Floats) -> float:
    return float(np.sqrt(np.mean((consensus - target) ** 2)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_clean_pool_is_no_worse_than_its_mean(shape: str, seed: int) -> None:
    scores, truth = pool(seed, shape=shape)
    further, _ = pool(seed, shape=shape, annotators=500)  # same truth, other annotators
    model, consensus = fitted(scores)
    assert model.weak == ()
    assert correlation(consensus, truth) > correlation(scores.mean(0), truth) - 0.005
    assert error(consensus, further.mean(0)) < 1.1 * error(scores.mean(0), further.mean(0))


@pytest.mark.parametrize("binary", [False, True])
def test_as_much_noise_as_signal_changes_little(binary: bool) -> None:
    scores, truth = pool(0)
    noise = np.random.default_rng(1).random(scores.shape)
    model, consensus = fitted(np.vstack([scores, np.round(noise) if binary else noise]))
    _, clean = fitted(scores)
    assert model.role[0, :12].min() > 0.9
    assert model.role[0, 12:].mean() < 0.3
    assert correlation(consensus, truth) > correlation(clean, truth) - 0.005
    assert np.abs(consensus - clean).mean() < 0.03


def test_inverted_minority_is_named_and_used() -> None:
    scores, truth = pool(0, annotators=20)
    _, clean = fitted(scores)
    scores[:6] = 1.0 - scores[:6]
    model, consensus = fitted(scores)
    assert (model.role.argmax(0) == np.r_[np.full(6, 2), np.zeros(14)]).all()
    assert (model.gain[:6] < 0).all()
    assert correlation(consensus, truth) > correlation(clean, truth) - 0.005
    assert correlation(scores.mean(0), truth) < correlation(consensus, truth) - 0.05


def test_half_inverted_has_no_orientation() -> None:
    scores, _ = pool(0)
    model, consensus = fitted(np.vstack([scores, 1.0 - scores]))
    assert model.orientation == pytest.approx(0.5, abs=0.05)
    assert model.trust < 0.1
    assert "which way is up" in model.weak[0]
    assert np.abs(consensus - 0.5).max() < 0.1


@pytest.mark.parametrize("missing", [0.74, 0.97])
def test_missing_scores(missing: float) -> None:
    scores, truth = pool(0, annotators=100, tasks=500)
    further = pool(0, annotators=500, tasks=500)[0].mean(0)
    scores[np.random.default_rng(1).random(scores.shape) < missing] = np.nan
    scores[:, 7] = np.nan
    matrix = matrix_of(scores)
    result = fit_calibrated(matrix).predict(matrix)
    known = (~np.isnan(scores)).any(0)
    for part in (result.consensus, result.sd, result.ci_low, result.ci_high):
        np.testing.assert_array_equal(np.isnan(part), ~known)
    plain = baselines.mean(matrix)
    assert correlation(result.consensus[known], truth[known]) > correlation(plain[known], truth[known])
    assert error(result.consensus[known], further[known]) < error(plain[known], further[known])


def test_pure_noise_is_weak_and_gets_the_plain_mean() -> None:
    scores = np.random.default_rng(0).random((15, 120))
    model, consensus = fitted(scores)
    assert "no common signal" in model.weak[0]
    np.testing.assert_allclose(consensus, scores.mean(0))


def test_two_annotators_are_too_few() -> None:
    scores, _ = pool(0, annotators=2)
    model, consensus = fitted(scores)
    assert "3 are needed" in model.weak[0]
    np.testing.assert_allclose(consensus, scores.mean(0))


def test_three_clear_annotators_are_three() -> None:
    model, _ = fitted(draw(100, 0, PUBLISHED[:3])[1])
    assert 2.999 < model.genuine_votes < 3.0, "a role is never quite certain"
    assert model.trust == pytest.approx(0.875, abs=1e-3)
    assert model.weak == ("unsure which way is up: 3.0 effective votes against 0.0",)


def test_copies_of_one_noise_annotator_are_no_majority() -> None:
    random = np.random.default_rng(0)
    scores = np.vstack([np.tile(random.random(150), (2, 1)), random.random((20, 150))])
    model, _ = fitted(scores)
    assert model.weak


def test_false_alarms_of_the_signal_test() -> None:
    random = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        seen = (random.random((20, 80)) < 0.3).astype(np.float64)
        standard = random.normal(size=seen.shape) * seen
        found += has_signal(standard, seen)
    assert found <= 5


@pytest.mark.parametrize("shape", SHAPES)
def test_interval_covers_what_further_annotators_say(shape: str) -> None:
    covered = []
    for seed in range(5):
        scores, _ = pool(seed, shape=shape)
        further, _ = pool(seed, shape=shape, annotators=500)
        matrix = matrix_of(scores)
        result = fit_calibrated(matrix).predict(matrix)
        covered.append(np.mean((result.ci_low <= further.mean(0)) & (further.mean(0) <= result.ci_high)))
    assert 0.85 < np.mean(covered) <= 1.0


def test_order_does_not_matter_and_runs_repeat() -> None:
    scores, _ = pool(0)
    scores[np.random.default_rng(1).random(scores.shape) < 0.3] = np.nan
    _, consensus = fitted(scores)
    _, again = fitted(scores)
    np.testing.assert_array_equal(consensus, again)
    random = np.random.default_rng(2)
    annotators, tasks = random.permutation(scores.shape[0]), random.permutation(scores.shape[1])
    _, shuffled = fitted(scores[annotators][:, tasks])
    np.testing.assert_allclose(shuffled, consensus[tasks], atol=1e-6)


def test_turning_every_score_round_turns_the_consensus_round() -> None:
    scores, _ = pool(0, shape="skewed")
    _, consensus = fitted(scores)
    _, turned = fitted(1.0 - scores)
    np.testing.assert_allclose(turned, 1.0 - consensus, atol=1e-6)


def test_predict_aligns_annotators_and_knows_absent_ones() -> None:
    scores, _ = pool(0)
    matrix = matrix_of(scores)
    model = fit_calibrated(matrix)
    some = ScoreMatrix.from_arrays(scores[[3, 1]], ["a003", "a001"], matrix.items, ["justice"] * len(matrix.items))
    fewer, full = model.predict(some), model.predict(matrix)
    assert correlation(fewer.consensus, full.consensus) > 0.7
    assert fewer.sd.mean() > full.sd.mean()
    stranger = ScoreMatrix.from_arrays(scores[:1], ["stranger"], matrix.items, ["justice"] * len(matrix.items))
    with pytest.raises(UserError, match="stranger"):
        model.predict(stranger)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_scores(value: float) -> None:
    model, consensus = fitted(np.full((5, 20), value))
    assert model.weak
    np.testing.assert_allclose(consensus, value)


def test_no_score_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="no scores"):
        fit_calibrated(matrix_of(np.full((3, 4), np.nan)))


def test_annotator_without_scores_counts_as_noise() -> None:
    scores, _ = pool(0)
    _, before = fitted(scores)
    model, after = fitted(np.vstack([scores, np.full(scores.shape[1], np.nan)]))
    assert model.role[:, -1].tolist() == [0.0, 1.0, 0.0]
    np.testing.assert_allclose(after, before)


def test_shared_votes_of_a_block() -> None:
    random = np.random.default_rng(0)
    shared = np.sqrt(0.5) * random.normal(size=5000)
    residual = np.vstack([shared + np.sqrt(0.5) * random.normal(size=(4, 5000)), random.normal(size=(2, 5000))])
    votes = shared_votes(residual, np.ones_like(residual))
    np.testing.assert_allclose(votes, [0.4] * 4 + [1.0] * 2, atol=0.02)


def test_variances_are_shrunk_by_what_they_show() -> None:
    random = np.random.default_rng(0)
    alike = random.chisquare(5, 200)
    assert np.ptp(shrunk_variance(alike, np.full(200, 5.0), 1e-6)) < 0.3 * np.ptp(alike / 5)
    unlike = random.chisquare(500, 200) * np.exp(random.normal(0.0, 1.0, 200))
    np.testing.assert_allclose(shrunk_variance(unlike, np.full(200, 500.0), 1e-6), unlike / 500, rtol=0.1)


def test_single_scores_per_task_leave_the_interval_wide() -> None:
    """One score per task: nothing tells signal from noise, and the interval must say so."""
    scores, _ = pool(0, annotators=10, tasks=300)
    scores[np.arange(10)[:, None] != np.arange(300) % 10] = np.nan
    matrix = matrix_of(scores)
    model = fit_calibrated(matrix)
    result = model.predict(matrix)
    assert model.trust == 0.0
    assert model.weak
    np.testing.assert_allclose(result.consensus, np.nanmean(scores, axis=0))
    assert result.sd.min() > 0.1
