r"""The normal distribution truncated to [0, 1], and its maximum likelihood from moments.

$$f(a \mid \mu, \sigma) = \frac{\varphi((a-\mu)/\sigma)}{\sigma Z}, \qquad
Z = \Phi(\beta) - \Phi(\alpha), \quad \alpha = -\mu/\sigma, \quad \beta = (1-\mu)/\sigma .$$

It is an exponential family with statistics $(a, a^2)$ and natural parameters
$\eta_1 = \mu/\sigma^2$, $\eta_2 = -1/(2\sigma^2)$, so $(\overline{a}, \overline{a^2})$ is all that a fit needs.
Parameters are kept in a safe box, $0 \le \mu \le 1$ and 0.03 <= sigma <= 1.0: the floor keeps a constant annotator's
likelihood finite (0.03 is about the standard deviation of rounding to 0.1), the ceiling replaces the truncated
exponential that the likelihood runs to when scores are as spread as a uniform law's, and an annotator who says only
0 or 1 cannot take over the consensus (its density can no longer pile up at both ends). Inside the box
$\alpha \le 0 \le \beta$, so $Z \ge 0.34$ and the closed forms lose no digits.

Source: arXiv 2506.14625 for the density; the box and the fit are this project's choice.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

SIGMA_MIN = 0.03
SIGMA_MAX = 1.0


@njit(cache=True)
def _standard_moments(mu: float, sigma: float) -> tuple[float, float, float, float, float]:
    """Z and the first four moments of z = (a - mu) / sigma, by M_k = (k - 1) M_{k-2} + h_{k-1}."""
    alpha, beta = -mu / sigma, (1.0 - mu) / sigma
    z = 0.5 * (math.erf(beta / math.sqrt(2.0)) - math.erf(alpha / math.sqrt(2.0)))
    low = math.exp(-0.5 * alpha * alpha) / (math.sqrt(2.0 * math.pi) * z)
    high = math.exp(-0.5 * beta * beta) / (math.sqrt(2.0 * math.pi) * z)
    m1 = low - high
    m2 = 1.0 + alpha * low - beta * high
    m3 = 2.0 * m1 + alpha**2 * low - beta**2 * high
    m4 = 3.0 * m2 + alpha**3 * low - beta**3 * high
    return z, m1, m2, m3, m4


@njit(cache=True)
def derivatives(m1: float, m2: float, mu: float, sigma: float) -> tuple[float, float, float, float, float]:
    r"""First and second derivatives of the mean log-likelihood in $\mu$ and $t = \ln\sigma$.

    Args:
        m1, m2: weighted means of a and of a^2.
        mu, sigma: where, inside the box.

    Returns:
        (d/dmu, d/dt, d2/dmu2, d2/dmu dt, d2/dt2).
    """
    _, M1, M2, M3, M4 = _standard_moments(mu, sigma)
    over_mean = (m1 - mu) / sigma - M1
    over_square = (m2 - 2.0 * mu * m1 + mu * mu) / (sigma * sigma) - M2
    return (
        over_mean / sigma,
        over_square,
        -(M2 - M1 * M1) / (sigma * sigma),
        -(M3 - M1 * M2 + 2.0 * over_mean) / sigma,
        -(M4 - M2 * M2 + 2.0 * over_square),
    )


@njit(cache=True)
def _best_mu(m1: float, sigma: float, mu: float) -> float:
    """The mu in [0, 1] whose truncated mean at `sigma` is nearest to `m1`; that mean rises with mu."""
    low, high = 0.0, 1.0
    if derivatives(m1, m1, low, sigma)[0] <= 0.0:
        return low
    if derivatives(m1, m1, high, sigma)[0] >= 0.0:
        return high
    for _ in range(60):
        slope, _, curvature, _, _ = derivatives(m1, m1, mu, sigma)
        if slope > 0.0:
            low = mu
        else:
            high = mu
        step = -slope / curvature
        if abs(step) < 1e-13:
            break
        mu = mu + step if low < mu + step < high else 0.5 * (low + high)
    return mu


@njit(cache=True)
def _profile(m1: float, m2: float, t: float, mu: float) -> tuple[float, float, float]:
    """At sigma = exp(t): the best mu, and the first and second derivative of the profile likelihood in t."""
    sigma = math.exp(t)
    mu = _best_mu(m1, sigma, mu)
    _, slope, h_mu, h_cross, curvature = derivatives(m1, m2, mu, sigma)
    if 0.0 < mu < 1.0:
        curvature -= h_cross * h_cross / h_mu
    return mu, slope, curvature


@njit(cache=True)
def _fit_box(m1: float, m2: float, sigma_min: float) -> tuple[float, float]:
    low, high = math.log(sigma_min), math.log(SIGMA_MAX)
    mu, slope, _ = _profile(m1, m2, high, m1)
    if slope >= 0.0:
        return mu, SIGMA_MAX
    mu, slope, _ = _profile(m1, m2, low, m1)
    if slope <= 0.0:
        return mu, sigma_min
    t = min(max(0.5 * math.log(m2 - m1 * m1), low), high)
    for _ in range(60):
        mu, slope, curvature = _profile(m1, m2, t, mu)
        if slope > 0.0:
            low = t
        else:
            high = t
        step = -slope / curvature
        if abs(step) < 1e-13:
            break
        t = t + step if low < t + step < high else 0.5 * (low + high)
    return mu, math.exp(t)


@njit(cache=True)
def _fit_box_all(m1: Floats, m2: Floats, sigma_min: Floats) -> tuple[Floats, Floats]:
    mu, sigma = np.empty_like(m1), np.empty_like(m1)
    for i in range(len(m1)):
        mu[i], sigma[i] = _fit_box(m1[i], m2[i], sigma_min[i])
    return mu, sigma


@njit(cache=True)
def _standard_moments_all(mu: Floats, sigma: Floats) -> Floats:
    out = np.empty((len(mu), 5))
    for i in range(len(mu)):
        out[i] = _standard_moments(mu[i], sigma[i])
    return out


def _moments_of(mu: ArrayLike, sigma: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """mu and sigma broadcast together, and (..., 5) = Z, M1..M4."""
    mu, sigma = np.broadcast_arrays(np.asarray(mu, dtype=np.float64), np.asarray(sigma, dtype=np.float64))
    return mu, sigma, _standard_moments_all(mu.ravel(), sigma.ravel()).reshape(*mu.shape, 5)


def fit_box(m1: ArrayLike, m2: ArrayLike, sigma_min: ArrayLike = SIGMA_MIN) -> tuple[Floats, Floats]:
    r"""Exact maximum likelihood of the truncated normal in the safe box, from weighted moments.

    The box is a convex polygon in $(\eta_1, \eta_2)$ and the likelihood is concave there, so the constrained maximum
    is unique. It is found by maximising over $\mu$ at fixed $\sigma$ (concave: match the mean, or stop at 0 or 1),
    then over $\sigma$. By the envelope theorem the outer derivative is $\overline{z^2} - E[z^2]$ whether or not $\mu$
    sits on its bound, and it changes sign once. Both searches are Newton's, kept inside a shrinking bracket.

    Args:
        m1: means of a, 0 <= m1 <= 1.
        m2: means of a^2, m1^2 <= m2 <= m1; same shape.
        sigma_min: floor of sigma, 0.03 or above, at most 1.0; broadcast to the shape of `m1`.

    Returns:
        mu in [0, 1] and sigma in [sigma_min, 1.0], of the shape of `m1`.
    """
    m1, m2, sigma_min = np.broadcast_arrays(*(np.asarray(values, dtype=np.float64) for values in (m1, m2, sigma_min)))
    mu, sigma = _fit_box_all(m1.ravel(), m2.ravel(), sigma_min.ravel())
    return mu.reshape(m1.shape), sigma.reshape(m1.shape)


def fit_naive(m1: ArrayLike, m2: ArrayLike, sigma_min: ArrayLike = SIGMA_MIN) -> tuple[Floats, Floats]:
    """The plain weighted mean and standard deviation used as if they were mu and sigma (sigma kept in the box).

    Not the maximum likelihood: the moments of the truncated law are closer to 1/2 than its parameters.
    """
    m1, m2 = np.asarray(m1, dtype=np.float64), np.asarray(m2, dtype=np.float64)
    return m1, np.clip(np.sqrt(np.maximum(m2 - m1 * m1, 0.0)), sigma_min, SIGMA_MAX)


def mean_sd(mu: ArrayLike, sigma: ArrayLike) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the truncated law, in score units."""
    mu, sigma, moments = _moments_of(mu, sigma)
    M1, M2 = moments[..., 1], moments[..., 2]
    return mu + sigma * M1, sigma * np.sqrt(M2 - M1 * M1)


def log_normaliser(mu: ArrayLike, sigma: ArrayLike) -> Floats:
    r"""$\ln \int_0^1 e^{-(a-\mu)^2 / 2\sigma^2} da = \ln(\sqrt{2\pi}\,\sigma Z)$."""
    _, sigma, moments = _moments_of(mu, sigma)
    return np.log(math.sqrt(2.0 * math.pi) * sigma * moments[..., 0])


def log_density_coefficients(mu: ArrayLike, sigma: ArrayLike) -> Floats:
    """(..., 3): c0, c1, c2 with ln f(a) = c0 + c1 a + c2 a^2 on [0, 1]."""
    mu, sigma = np.broadcast_arrays(np.asarray(mu, dtype=np.float64), np.asarray(sigma, dtype=np.float64))
    c2 = -0.5 / sigma**2
    return np.stack([c2 * mu**2 - log_normaliser(mu, sigma), -2.0 * c2 * mu, c2], axis=-1)


def jeffreys_divergence(mu1: ArrayLike, sigma1: ArrayLike, mu0: ArrayLike, sigma0: ArrayLike) -> Floats:
    r"""$KL(f_1 \| f_0) + KL(f_0 \| f_1)$ in nats; 0 where the two laws are one.

    For an exponential family it is $(\eta_1 - \eta_0) \cdot (E_1[T] - E_0[T])$ with $T = (a, a^2)$.
    """
    difference = log_density_coefficients(mu1, sigma1) - log_density_coefficients(mu0, sigma0)
    (mean1, sd1), (mean0, sd0) = mean_sd(mu1, sigma1), mean_sd(mu0, sigma0)
    squares = (sd1**2 + mean1**2) - (sd0**2 + mean0**2)
    return np.maximum(difference[..., 1] * (mean1 - mean0) + difference[..., 2] * squares, 0.0)
