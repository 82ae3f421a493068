"""Empirical-Bayes shrinkage of variances (Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3)."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

Floats = NDArray[np.float64]


def shrunk_variance(square: Floats, freedom: Floats, least: float) -> Floats:
    """(M,) variances, none below `least`, drawn to a common value the more, the less they truly differ.

    Their scaled inverse chi-square prior is fitted by the moments of the log variances (Smyth 2004, section 6.2).

    Args:
        square: (M,) residual sums of squares, >= 0.
        freedom: (M,) their degrees of freedom, > 0; the prior is fitted to those with at least 2.
    """
    variance = np.maximum(square / freedom, least)
    fitted = freedom >= 2.0
    if fitted.sum() < 2:
        return np.full(len(square), variance.mean())
    half = 0.5 * freedom[fitted]
    log = np.log(variance[fitted]) - digamma(half) + np.log(half)
    excess = log.var(ddof=1) - polygamma(1, half).mean()
    if excess <= 0.0:
        return np.full(len(square), max(float(np.exp(log.mean())), least))
    prior = _inverse_trigamma(float(excess))
    common = np.exp(log.mean() + digamma(prior) - np.log(prior))
    return np.maximum((2.0 * prior * common + square) / (2.0 * prior + freedom), least)


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value, by Newton steps on 1 / trigamma, which is nearly linear (Smyth 2004, appendix)."""
    x = 0.5 + 1.0 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1.0 - trigamma / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-8 * x:
            break
    return x
