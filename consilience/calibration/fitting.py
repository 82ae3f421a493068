"""Two numbers found on dev: the temperature and the concentration that suit people's votes best."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from consilience.calibration.metrics import Prediction, dirichlet_multinomial

Floats = NDArray[np.float64]

TEMPERATURES = (0.02, 50.0)
CONCENTRATIONS = (1e-2, 1e4)


def fit_temperature(log_p: Floats, votes: Floats) -> float:
    """The T from 0.02 to 50 with the least cross-entropy of softmax(ln p / T) against (n, k) votes or shares."""
    shares = votes / votes.sum(axis=1, keepdims=True)
    return _least(lambda t: float(-(shares * log_softmax(log_p / t, axis=1)).sum(axis=1).mean()), TEMPERATURES)


def fit_concentration(log_p: Floats, votes: Floats) -> float:
    """The s from 0.01 to 10,000 with the least Dirichlet-multinomial loss of s p on (n, k) counts."""
    return _least(lambda s: float(dirichlet_multinomial(np.exp(log_p), votes, s).mean()), CONCENTRATIONS)


def predict(log_p: Floats, dev_log_p: Floats, dev_votes: Floats, counted: bool) -> tuple[Prediction, float]:
    """The prediction with (n, k) `log_p`, its temperature and concentration fitted on dev; and the temperature."""
    temperature = fit_temperature(dev_log_p, dev_votes)
    concentration = fit_concentration(dev_log_p, dev_votes) if counted else np.nan
    calibrated = np.exp(log_softmax(log_p / temperature, axis=1))
    return Prediction(np.exp(log_p), calibrated, concentration), temperature


def _least(loss: Callable[[float], float], limits: tuple[float, float]) -> float:
    found = minimize_scalar(lambda log_x: loss(float(np.exp(log_x))), bounds=tuple(np.log(limits)), method="bounded")
    return float(np.exp(found.x))
