"""Weighted mean, best single annotator, Dawid-Skene."""

import numpy as np
import pytest
from consensus_simulation import draw, matrix_of
from hypothesis import given, settings
from hypothesis import strategies as st

from consilience.consensus.baselines import best_single, dawid_skene, mean, weighted_mean

METHODS = [weighted_mean, best_single, dawid_skene]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*:pandas.errors.Pandas4Warning")


def noisy(tasks: int = 1000, noise: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    truth = random.uniform(0.2, 0.8, tasks)
    return truth, np.clip(truth + np.array(noise)[:, None] * random.normal(size=(len(noise), tasks)), 0.0, 1.0)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_weighted_mean_beats_the_mean_of_unequal_annotators_and_resists_noise() -> None:
    truth, scores = noisy()
    matrix = matrix_of(scores)
    assert correlation(weighted_mean(matrix), truth) > correlation(mean(matrix), truth) + 0.02
    guessing = np.random.default_rng(1).random((6, 1000))
    assert correlation(weighted_mean(matrix_of(np.vstack([scores, guessing]))), truth) > 0.95


def test_weighted_mean_of_equals_is_their_mean() -> None:
    _, scores = noisy(20_000, (0.2,) * 5)
    np.testing.assert_allclose(weighted_mean(matrix_of(scores)), scores.mean(axis=0), atol=0.01)


def test_best_single_is_the_most_agreeing_annotator() -> None:
    _, scores = noisy()
    scores[0, 7] = np.nan
    best = best_single(matrix_of(scores))
    np.testing.assert_array_equal(np.delete(best, 7), np.delete(scores[0], 7))
    assert best[7] == pytest.approx(scores[1:, 7].mean())


def test_dawid_skene_learns_who_votes_backwards() -> None:
    label, _ = draw(1000, 0)
    clear = np.where(label, 0.9, 0.1)
    votes = np.vstack([np.where(np.random.default_rng(m).random(1000) < 0.15, 1.0 - clear, clear) for m in range(4)])
    votes[3] = 1.0 - votes[3]
    assert np.mean((dawid_skene(matrix_of(votes)) > 0.5) == label) > 0.93


@pytest.mark.parametrize("method", METHODS)
def test_nan_exactly_where_a_task_has_no_score(method) -> None:
    scores = draw(60, 0)[1]
    scores[np.random.default_rng(0).random(scores.shape) < 0.4] = np.nan
    scores[:, 5] = np.nan
    result = method(matrix_of(scores))
    np.testing.assert_array_equal(np.isnan(result), np.isnan(scores).all(axis=0))
    known = result[~np.isnan(result)]
    assert ((known >= 0.0) & (known <= 1.0)).all()


@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_degenerate_pools(annotators: int, tasks: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = np.round(random.random((annotators, tasks)), random.integers(0, 2))
    scores[random.random(scores.shape) < 0.3] = np.nan
    for method in (weighted_mean, best_single):
        result = method(matrix_of(scores))
        np.testing.assert_array_equal(np.isnan(result), np.isnan(scores).all(axis=0))


def test_all_votes_on_one_side() -> None:
    np.testing.assert_allclose(dawid_skene(matrix_of(np.full((3, 5), 0.2))), 0.0, atol=1e-6)
    np.testing.assert_allclose(dawid_skene(matrix_of(np.full((3, 5), 0.8))), 1.0, atol=1e-6)
