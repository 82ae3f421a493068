"""Figures against people, the best achievable, baselines, and what is fitted on dev."""

import math

import numpy as np
import pytest
from calibrate_items import voted_pairs
from scipy.special import digamma
from sklearn.metrics import f1_score

from consilience.calibration.baselines import bag_of_words, majority, prior
from consilience.calibration.bound import fit_dirichlet, posterior_draws, posterior_mean
from consilience.calibration.fitting import fit_concentration, fit_temperature, predict
from consilience.calibration.metrics import (
    Bootstrap,
    Prediction,
    calibration_error,
    cross_entropies,
    js_divergences,
    macro_f1,
)
from consilience.calibration.tasks import VotedItems

RANDOM = np.random.default_rng(0)


def votes_like(a: list[float], n: int = 1_500, voters: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.dirichlet(a, n)
    return np.array([random.multinomial(voters, row) for row in p], dtype=float), p


def test_known_figures() -> None:
    shares = np.array([[1.0, 0.0], [0.5, 0.5]])
    p = np.array([[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(cross_entropies(p, shares), math.log(2))
    np.testing.assert_allclose(js_divergences(p, shares), [0.2157615543, 0.0], atol=1e-9)
    certain = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert np.isinf(cross_entropies(certain, shares)[1])
    assert cross_entropies(certain, shares)[0] == 0.0
    assert calibration_error(p, shares, np.ones((1, 2)))[0] == pytest.approx(0.25)
    opposite = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert js_divergences(opposite, opposite[::-1])[0] == pytest.approx(math.log(2))


def test_macro_f1_is_scikit_learns() -> None:
    said, truth = RANDOM.integers(0, 4, 200), RANDOM.integers(0, 3, 200)
    weights = RANDOM.integers(0, 4, (3, 200)).astype(float)
    expected = [f1_score(truth, said, average="macro", sample_weight=row) for row in weights]
    np.testing.assert_allclose(macro_f1(said, truth, 5, weights), expected)


def test_a_dirichlet_is_found_again() -> None:
    votes, _ = votes_like([2.0, 0.7, 0.3], n=4_000, voters=20)
    np.testing.assert_allclose(fit_dirichlet(votes), [2.0, 0.7, 0.3], rtol=0.1)
    found = fit_dirichlet(np.c_[votes, np.zeros(len(votes))])
    assert found[3] < 1e-4


def test_the_bound_has_the_expected_cross_entropy() -> None:
    votes, _ = votes_like([1.0, 0.8])
    a = fit_dirichlet(votes)
    bootstrap = Bootstrap(votes, np.arange(len(votes)))
    found = bootstrap.bound(posterior_draws(votes, a, 400))
    after = a + votes
    expected = ((votes / 5) * (digamma(after.sum(axis=1, keepdims=True)) - digamma(after))).sum(axis=1).mean()
    assert found["ce"].value == pytest.approx(expected, abs=0.002)
    assert found["ce"].low < expected < found["ce"].high
    assert found["dm"].value == pytest.approx(5 * expected, abs=0.01)


def test_the_truth_is_as_good_as_the_bound() -> None:
    votes, p = votes_like([1.0, 0.8], seed=3)
    bootstrap = Bootstrap(votes, np.arange(len(votes)))
    truth = bootstrap.figures(Prediction(p, p, np.inf))
    bound = bootstrap.bound(posterior_draws(votes, np.array([1.0, 0.8]), 200))
    for metric in ("ce", "accuracy", "f1_macro", "js", "tv"):
        assert bound[metric].value == pytest.approx(truth[metric].value, abs=0.02)
    assert bound["ece"].low == 0.0 < bound["ece"].value < bound["ece"].high < 0.1


def test_intervals_cover_and_shares_have_no_likelihood() -> None:
    votes, p = votes_like([1.0, 1.0], n=300)
    counted = Bootstrap(votes, np.arange(300) // 10)
    found = counted.figures(Prediction(p, p, 3.0))
    inside = ("ce", "dm", "dm_1", "accuracy", "ece")
    assert all(found[name].low <= found[name].value <= found[name].high for name in inside)
    assert found["ece"].low == 0.0, "the truth is calibrated"
    shares = Bootstrap(votes / 5, np.arange(300), counted=False).figures(Prediction(p, p, math.nan))
    assert math.isnan(shares["dm"].value)
    assert math.isnan(shares["dm_1"].value)
    assert shares["ce"].value == pytest.approx(found["ce"].value)


def test_gain_is_paired_and_the_gap_is_its_share() -> None:
    votes, p = votes_like([1.0, 1.0], n=400)
    bootstrap = Bootstrap(votes, np.arange(400))
    flat = np.full_like(p, 0.5)
    model, base = Prediction(p, p, 3.0), Prediction(flat, flat, 3.0)
    gain = bootstrap.gain(model, base)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.value == pytest.approx(math.log(2) - bootstrap.figures(model)["ce"].value)
    closed = bootstrap.gap_closed(model, base, 0.5)
    assert closed.value == pytest.approx(gain.value / (math.log(2) - 0.5))


def test_what_is_fitted_on_dev() -> None:
    votes, p = votes_like([0.5, 0.5], n=3_000, voters=50)
    sharpened = 2.0 * np.log(p * 0.98 + 0.01)
    log_p = sharpened - np.logaddexp.reduce(sharpened, axis=1, keepdims=True)
    assert fit_temperature(log_p, votes) == pytest.approx(2.0, rel=0.1)
    mean = np.tile([0.5, 0.5], (3_000, 1))
    assert fit_concentration(np.log(mean), votes) == pytest.approx(1.0, rel=0.1)
    prediction, temperature = predict(log_p, log_p, votes, True)
    assert temperature == pytest.approx(2.0, rel=0.1)
    assert cross_entropies(prediction.calibrated, votes / 50).mean() < cross_entropies(prediction.p, votes / 50).mean()
    np.testing.assert_allclose(prediction.calibrated.sum(axis=1), 1.0)
    assert math.isnan(predict(log_p, log_p, votes, False)[0].concentration)


def test_people_are_smoothed_by_what_is_known_of_all_items() -> None:
    np.testing.assert_allclose(posterior_mean(np.array([[5.0, 0.0]]), np.array([1.0, 1.0])), [[6 / 7, 1 / 7]])


def test_baselines() -> None:
    train, dev, test = voted_pairs(120, 0), voted_pairs(20, 1), voted_pairs(20, 2)
    shares = train.votes.mean(axis=0) / 5
    np.testing.assert_allclose(prior(train, 3), np.tile(shares, (3, 1)))
    assert majority(train, 2).sum(axis=1).tolist() == [1.0, 1.0]
    p = bag_of_words(train, dev, test)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert (p.argmax(axis=1) == test.votes.argmax(axis=1)).all()
    assert p.max(axis=1).mean() == pytest.approx(0.8, abs=0.08), "people's shares, not their majority"
    swapped = VotedItems(test.task, test.options, test.ids, tuple(texts[::-1] for texts in test.texts), test.votes)
    np.testing.assert_allclose(bag_of_words(train, dev, swapped), p[:, ::-1], atol=1e-12)


def test_bag_of_words_of_texts_with_three_options() -> None:
    words = ("robbed", "helped", "watched")
    k = RANDOM.integers(0, 2, 60)  # nobody ever chose the third
    votes = np.eye(3)[k] * 5
    items = VotedItems(
        "texts", ("a", "b", "c"), tuple(map(str, range(60))), tuple((f"I {words[i]} him",) for i in k), votes
    )
    p = bag_of_words(items, items, items)
    assert (p.argmax(axis=1) == k).all()
    assert p[:, 2].max() < 1e-5


@pytest.mark.parametrize(
    ("texts", "votes"),
    [
        ([f"I lied to brother {k % 3}" for k in range(12)], [[5.0, 0.0]] * 12),
        ([f"u{k} v{k} w{k}" for k in range(12)], [[5.0, k % 3] for k in range(12)]),
        ([f"我撒了謊{chr(0x4E00 + k)}" for k in range(12)], [[5.0, k % 3] for k in range(12)]),
    ],
)
def test_where_words_tell_nothing_there_is_the_prior(texts: list[str], votes: list[list[float]]) -> None:
    ids = tuple(map(str, range(12)))
    items = VotedItems("texts", ("a", "b"), ids, tuple((text,) for text in texts), np.array(votes))
    np.testing.assert_array_equal(bag_of_words(items, items, items), prior(items, 12))
