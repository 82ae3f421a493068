"""AUC, accuracy, ECE and their intervals: worked by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from consilience.values.calibration import best_threshold, fit_temperature, probabilities
from consilience.values.value_metrics import Bootstrap, weighted_accuracy, weighted_auc, weighted_ece

ONE = np.ones((1, 4))


def test_ece_by_hand() -> None:
    # Bins: 0.1-0.2 holds 0.15 (label 0) and 0.19 (label 1); 0.8-0.9 holds 0.85 (1); the last holds 1.0 (0).
    scores, labels = np.array([0.15, 0.19, 0.85, 1.0]), np.array([0.0, 1.0, 1.0, 0.0])
    by_hand = 0.5 * abs(0.17 - 0.5) + 0.25 * abs(0.85 - 1) + 0.25 * abs(1 - 0)
    assert weighted_ece(labels, scores, ONE)[0] == pytest.approx(by_hand)
    assert weighted_ece(labels, labels, ONE)[0] == 0.0


def test_weights_count_a_text_as_often() -> None:
    scores, labels = np.array([0.2, 0.4, 0.6, 0.8]), np.array([0.0, 1.0, 0.0, 1.0])
    weights = np.array([[2.0, 1.0, 0.0, 3.0]])
    repeated = np.array([0, 0, 1, 3, 3, 3])
    whole = np.ones((1, 6))
    for figure in (weighted_auc, weighted_accuracy, weighted_ece):
        assert figure(labels, scores, weights) == pytest.approx(figure(labels[repeated], scores[repeated], whole))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_that_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([row[0] / 5 for row in rows]), np.array([float(row[1]) for row in rows])
    found = weighted_auc(labels, scores, np.ones((1, len(rows))))[0]
    if len(set(labels)) == 1:
        assert np.isnan(found), "one class alone has no AUC"
    else:
        assert found == pytest.approx(roc_auc_score(labels, scores))


def test_interval_holds_the_truth_and_situations_are_drawn_together() -> None:
    random = np.random.default_rng(1)
    labels = np.repeat(random.integers(0, 2, 200), 5).astype(float)
    scores = np.repeat(random.normal(labels[::5]), 5)
    situations = np.repeat(np.arange(200), 5).astype(str).tolist()
    together = Bootstrap(labels, situations).quality(expit(scores)).auc
    apart = Bootstrap(labels, [str(row) for row in range(1000)]).quality(expit(scores)).auc
    assert together.low < 0.76 < together.high, "two unit normals one apart: AUC 0.760"
    assert together.value == apart.value
    assert together.high - together.low > 1.8 * (apart.high - apart.low), "copies are no evidence"


@pytest.mark.parametrize(("slope", "expected"), [(1.0, 0.0), (0.85, 0.037)])
def test_interval_of_ece_holds_figure_and_truth_though_resamples_lie_above(slope: float, expected: float) -> None:
    covered = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        scores = random.random(300)
        labels = (random.random(300) < 0.5 + slope * (scores - 0.5)).astype(float)
        found = Bootstrap(labels, [str(row) for row in range(300)]).quality(scores).ece
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.value > expected, "on few texts it is too large"
        covered += found.low <= expected + 1e-3
    assert covered >= 36


def test_one_situation_has_no_interval() -> None:
    labels, scores = np.array([0.0, 1.0, 1.0]), np.array([0.2, 0.7, 0.9])
    sample = Bootstrap(labels, ["a", "a", "a"])
    for found in (sample.quality(scores).auc, sample.quality(scores).ece, sample.auc_gain(scores, labels)):
        assert np.isfinite(found.value)
        assert np.isnan([found.low, found.high]).all()


def test_gain_is_paired() -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, 300).astype(float)
    scores = expit(random.normal(labels))
    sample = Bootstrap(labels, [str(row) for row in range(300)])
    same = sample.auc_gain(scores, scores)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert sample.auc_gain(labels, scores).low > 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_calibration_recovers_a_known_temperature(temperature: float) -> None:
    random = np.random.default_rng(0)
    true = random.normal(scale=2, size=20_000)
    labels = (random.random(20_000) < expit(true)).astype(float)
    found = fit_temperature(true * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.04)
    before = weighted_ece(labels, probabilities(true * temperature, 1.0), np.ones((1, 20_000)))[0]
    after = weighted_ece(labels, probabilities(true * temperature, found), np.ones((1, 20_000)))[0]
    assert after < 0.01
    assert after < before or temperature == 1.0


def test_a_weight_counts_an_example_as_often() -> None:
    random = np.random.default_rng(0)
    logits, labels, times = random.normal(size=50), random.integers(0, 2, 50).astype(float), random.integers(1, 4, 50)
    repeated = np.repeat(np.arange(50), times)
    found = fit_temperature(logits, labels, times.astype(float))
    assert found == pytest.approx(fit_temperature(logits[repeated], labels[repeated]), rel=1e-4)


def test_extreme_logits_stay_probabilities() -> None:
    logits = np.array([-1e4, 0.0, 1e4])
    assert fit_temperature(logits, np.array([0.0, 1.0, 1.0])) > 0
    assert probabilities(logits, 1.0).tolist() == [0.0, 0.5, 1.0]


def test_threshold_with_the_best_f1() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    assert best_threshold(scores, np.array([0.0, 0.0, 1.0, 1.0])) == 0.3
    assert best_threshold(scores, np.array([0.0, 1.0, 0.0, 1.0])) == 0.2
