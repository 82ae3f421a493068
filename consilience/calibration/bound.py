"""BEST (Lourie et al. 2021): how well the true distribution behind people's votes would itself do on them.

A Dirichlet distribution is fitted to all items' votes; each item's true distribution, given its votes, is Dirichlet
again, and its draws stand in for a perfect model's predictions.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import digamma, gammaln

Floats = NDArray[np.float64]

DRAWS = 2_000
_TINY = 1e-300


def fit_dirichlet(votes: Floats) -> Floats:
    """(k,) parameters with the highest Dirichlet-multinomial likelihood of (n, k) counts.

    An option that nobody chose has no maximum: its parameter goes to the lower bound of 1e-6.
    """
    total = votes.sum(axis=1)

    def loss(log_a: Floats) -> tuple[float, Floats]:
        a = np.exp(log_a)
        value = gammaln(a.sum() + total) - gammaln(a.sum()) - (gammaln(a + votes) - gammaln(a)).sum(axis=1)
        slope = (digamma(a.sum() + total) - digamma(a.sum()))[:, None] - (digamma(a + votes) - digamma(a))
        return float(value.mean()), slope.mean(axis=0) * a

    start = np.log(votes.sum(axis=0) / votes.sum() + 1e-3)
    limits = [(np.log(1e-6), np.log(1e6))] * votes.shape[1]
    return np.exp(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits, options={"ftol": 1e-13}).x)


def posterior_draws(votes: Floats, parameters: Floats, draws: int = DRAWS, seed: int = 0) -> Iterator[Floats]:
    """`draws` times (n, k) distributions from Dirichlet(parameters + votes), each row summing to 1."""
    random = np.random.default_rng(seed)
    for _ in range(draws):
        drawn = np.maximum(random.standard_gamma(parameters + votes), _TINY)
        yield drawn / drawn.sum(axis=1, keepdims=True)


def posterior_mean(votes: Floats, parameters: Floats) -> Floats:
    """(n, k) what some people's votes say of what others will vote."""
    smoothed = votes + parameters
    return smoothed / smoothed.sum(axis=1, keepdims=True)
