"""Losses against people's votes: reference values, gradients, and both ends of the concentration."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma, gammaln

from consilience.calibration.losses import dirichlet_multinomial_nll, soft_cross_entropy

HALF = math.log(0.5)


def dm(p: list[float], votes: list[float], s: float) -> float:
    log_p = torch.tensor([p], dtype=torch.float64).log()
    return float(dirichlet_multinomial_nll(log_p, torch.tensor([votes]), math.log(s)))


def test_reference_values() -> None:
    assert dm([0.5, 0.5], [0.5, 0.5], 2.0) == pytest.approx(0.9347116558, abs=1e-9)
    log_p = torch.tensor([[HALF, HALF]])
    assert float(soft_cross_entropy(log_p, torch.tensor([[0.5, 0.5]]))) == pytest.approx(math.log(2))
    assert float(dirichlet_multinomial_nll(log_p, torch.tensor([[3.0, 0.0]]), -60.0)) == pytest.approx(0.6931, abs=1e-4)


def test_the_softmax_is_taken_once() -> None:
    """Probabilities taken for logits would give .6775 here, and would prefer certainty to people's own shares."""
    votes = torch.tensor([[3.0, 2.0]])

    def loss(p: float) -> float:
        return float(soft_cross_entropy(torch.tensor([[p, 1.0 - p]]).log(), votes))

    assert loss(0.8) == pytest.approx(-0.6 * math.log(0.8) - 0.4 * math.log(0.2), abs=1e-6)
    assert min((loss(p), p) for p in (0.5, 0.59, 0.6, 0.61, 0.7, 0.99))[1] == 0.6
    logits = torch.log(torch.tensor([[0.6, 0.4]])).requires_grad_()
    soft_cross_entropy(torch.log_softmax(logits, -1), votes).sum().backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), 0.0, atol=1e-7)


@given(
    st.lists(st.integers(0, 40), min_size=2, max_size=5).filter(any),
    st.floats(-5.0, 8.0),
    st.integers(0, 2**32 - 1),
)
def test_equals_the_formula(votes: list[int], log_s: float, seed: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.ones(len(votes))) * 0.98 + 0.02 / len(votes)
    a, n = math.exp(log_s) * p, np.array(votes, dtype=float)
    expected = gammaln(a.sum() + n.sum()) - gammaln(a.sum()) - (gammaln(a + n) - gammaln(a)).sum()
    assert dm(p.tolist(), votes, math.exp(log_s)) == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_small_and_large_concentrations() -> None:
    assert dm([0.3, 0.7], [0, 4], 1e-12) == pytest.approx(-math.log(0.7), abs=1e-9)
    assert dm([0.3, 0.7], [2, 4], 1e-30) > 60, "split votes are next to impossible"
    multinomial = -(2 * math.log(0.3) + 4 * math.log(0.7))
    for s in (1e7, 1e9, 1e12, 1e30):
        assert dm([0.3, 0.7], [2, 4], s) == pytest.approx(multinomial, abs=1e-5)


def test_no_vote_and_one_vote() -> None:
    assert dm([0.3, 0.7], [0, 0], 2.0) == 0.0
    assert dm([0.3, 0.7], [1, 0], 2.0) == pytest.approx(-math.log(0.3)), "one vote knows no concentration"


def test_gradients() -> None:
    p, n, s = np.array([0.2, 0.5, 0.3]), np.array([3.0, 0.0, 2.0]), 1.7
    log_p = torch.tensor(np.log(p)[None], requires_grad=True)
    log_s = torch.tensor(math.log(s), dtype=torch.float64, requires_grad=True)
    dirichlet_multinomial_nll(log_p, torch.tensor(n[None]), log_s).sum().backward()
    a = s * p
    by_a = -(digamma(s) - digamma(s + n.sum()) + digamma(a + n) - digamma(a))
    # With ln p and ln s as they stand, A = s is no function of p.
    by_log_p = a * -(digamma(a + n) - digamma(a))
    assert log_p.grad is not None
    assert log_s.grad is not None
    np.testing.assert_allclose(log_p.grad.numpy()[0], by_log_p, rtol=1e-9)
    assert float(log_s.grad) == pytest.approx((a * by_a).sum(), rel=1e-9)
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    votes = torch.tensor([[5.0, 0, 0], [0, 1, 0], [2, 2, 1], [0, 0, 0]])
    assert torch.autograd.gradcheck(lambda x: dirichlet_multinomial_nll(torch.log_softmax(x, -1), votes, 0.3), [logits])


def test_gradients_are_finite_at_the_ends() -> None:
    for log_s in (-50.0, 0.0, 30.0):
        logits = torch.tensor([[40.0, -40.0], [-40.0, 40.0]], requires_grad=True)
        s = torch.tensor(log_s, requires_grad=True)
        votes = torch.tensor([[0.0, 5.0], [3.0, 2.0]])
        dirichlet_multinomial_nll(torch.log_softmax(logits, -1), votes, s).sum().backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        assert s.grad is not None
        assert s.grad.isfinite()
