"""The truncated normal: known values, derivatives, and the fit in the box against other optimisers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize

from consilience.consensus.truncated_normal import (
    SIGMA_MAX,
    SIGMA_MIN,
    derivatives,
    fit_box,
    fit_naive,
    jeffreys_divergence,
    log_density_coefficients,
    log_normaliser,
    mean_sd,
)

BOX = [(0.658, 0.129), (0.274, 0.159), (0.0, 0.03), (1.0, 0.03), (0.5, 1.0), (0.0, 1.0), (0.02, 0.4)]


def density(mu: float, sigma: float, a: float) -> float:
    return float(np.exp(log_density_coefficients(mu, sigma) @ [1.0, a, a * a]))


def mean_log_likelihood(mu: float, sigma: float, m1: float, m2: float) -> float:
    return float(log_density_coefficients(mu, sigma) @ [1.0, m1, m2])


@pytest.mark.parametrize(("mu", "sigma"), BOX)
def test_density_and_moments_agree_with_quadrature(mu: float, sigma: float) -> None:
    def expected(f) -> float:
        return quad(lambda a: f(a) * density(mu, sigma, a), 0, 1, points=[min(max(mu, 0.01), 0.99)], epsabs=1e-12)[0]

    mean, sd = mean_sd(mu, sigma)
    assert expected(lambda a: 1.0) == pytest.approx(1.0, abs=1e-9)
    assert expected(lambda a: a) == pytest.approx(mean, abs=1e-9)
    assert expected(lambda a: (a - mean) ** 2) == pytest.approx(sd**2, abs=1e-9)
    integral = quad(lambda a: np.exp(-((a - mu) ** 2) / (2 * sigma**2)), 0, 1, points=[min(max(mu, 0.01), 0.99)])[0]
    assert log_normaliser(mu, sigma) == pytest.approx(np.log(integral), abs=1e-9)


@pytest.mark.parametrize(("mu", "sigma", "naive"), [(0.658, 0.129, (0.6565, 0.1269)), (0.274, 0.159, (0.2890, 0.1447))])
def test_exact_and_naive_m_step_at_published_values(mu: float, sigma: float, naive: tuple[float, float]) -> None:
    mean, sd = mean_sd(mu, sigma)
    m1, m2 = float(mean), float(sd**2 + mean**2)
    assert np.array(fit_box(m1, m2)) == pytest.approx([mu, sigma], abs=1e-10)
    assert np.array(fit_naive(m1, m2)) == pytest.approx(naive, abs=5e-5)


@pytest.mark.parametrize(
    ("m1", "limit"),
    [
        (0.5, 1 / 12),
        (0.4, 0.0774),
        (0.6, 0.0774),
        (0.3, 0.0603),
        (0.7, 0.0603),
        (0.2, 0.0350),
        (0.9, 0.00996),
        (0.05, 0.0025),
    ],
)
def test_box_edge_where_the_truncated_normal_has_no_maximum(m1: float, limit: float) -> None:
    """At the variance of the truncated exponential of that mean the free likelihood runs to sigma = infinity."""
    mu, sigma = fit_box(m1, m1**2 + limit)
    assert sigma == SIGMA_MAX or mu in (0.0, 1.0)
    mu, sigma = fit_box(m1, m1**2 + (min(m1, 1 - m1) / 6) ** 2)
    assert 0.0 < mu < 1.0
    assert sigma < SIGMA_MAX


@pytest.mark.parametrize("m1", [0.0, 0.3, 1.0])
def test_constant_scores_stop_at_the_floor(m1: float) -> None:
    assert np.array(fit_box(m1, m1**2)) == pytest.approx([m1, SIGMA_MIN])


@settings(deadline=None, max_examples=60)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_fit_is_the_maximum_in_the_box(m1: float, share: float) -> None:
    m2 = m1**2 + share * m1 * (1 - m1)
    mu, sigma = map(float, fit_box(m1, m2))
    assert 0.0 <= mu <= 1.0
    assert SIGMA_MIN <= sigma <= SIGMA_MAX
    best = mean_log_likelihood(mu, sigma, m1, m2)
    other = minimize(
        lambda x: -mean_log_likelihood(x[0], x[1], m1, m2), (0.5, 0.3), bounds=[(0, 1), (SIGMA_MIN, SIGMA_MAX)]
    )
    assert best >= -other.fun - 1e-9
    score_mu, score_t, *_ = derivatives(m1, m2, mu, sigma)
    for score, at_low, at_high in [(score_mu, mu == 0, mu == 1), (score_t, sigma == SIGMA_MIN, sigma == SIGMA_MAX)]:
        assert score <= 1e-6 if at_low else score >= -1e-6 if at_high else abs(score) < 1e-6


@pytest.mark.parametrize(("mu", "sigma"), [(0.658, 0.129), (0.1, 0.3), (0.9, 0.8)])
@pytest.mark.parametrize(("m1", "m2"), [(0.6, 0.4), (0.3, 0.12)])
def test_score_and_hessian_against_finite_differences(mu: float, sigma: float, m1: float, m2: float) -> None:
    h = 1e-5

    def value(d_mu: float, d_t: float) -> float:
        return mean_log_likelihood(mu + d_mu, sigma * np.exp(d_t), m1, m2)

    def slope(d_mu: float, d_t: float) -> np.ndarray:
        return np.array(derivatives(m1, m2, mu + d_mu, sigma * np.exp(d_t))[:2])

    score_mu, score_t, h_mu, h_cross, h_t = derivatives(m1, m2, mu, sigma)
    assert score_mu == pytest.approx((value(h, 0) - value(-h, 0)) / (2 * h), rel=1e-6, abs=1e-7)
    assert score_t == pytest.approx((value(0, h) - value(0, -h)) / (2 * h), rel=1e-6, abs=1e-7)
    assert (slope(h, 0) - slope(-h, 0)) / (2 * h) == pytest.approx([h_mu, h_cross], rel=1e-6, abs=1e-6)
    assert (slope(0, h) - slope(0, -h)) / (2 * h) == pytest.approx([h_cross, h_t], rel=1e-6, abs=1e-6)


def test_jeffreys_divergence() -> None:
    one, zero = (0.658, 0.129), (0.418, 0.140)

    def integrand(a: float) -> float:
        p, q = density(*one, a), density(*zero, a)
        return (p - q) * np.log(p / q)

    assert jeffreys_divergence(*one, *zero) == pytest.approx(quad(integrand, 0, 1)[0], rel=1e-9)
    assert jeffreys_divergence(*one, *zero) == pytest.approx(jeffreys_divergence(*zero, *one))
    assert jeffreys_divergence(*one, *one) == 0.0
