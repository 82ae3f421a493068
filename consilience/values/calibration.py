"""Temperature scaling (Guo et al. 2017): one number, found on validation, makes probabilities mean what they say."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import precision_recall_curve

Floats = NDArray[np.float64]

LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: Floats, labels: Floats, weights: Floats | None = None) -> float:
    """The temperature in [0.05, 20] with the least cross-entropy of sigmoid(logit / temperature).

    Args:
        logits: (n,), of the positive class against the negative.
        labels: (n,) 0 or 1.
        weights: (n,) of the examples; None: all the same.
    """

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.average(np.logaddexp(0.0, scaled) - labels * scaled, weights=weights))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded").x))


def probabilities(logits: Floats, temperature: float | Floats) -> Floats:
    """sigmoid(logits / temperature), in [0, 1]."""
    return expit(logits / temperature)


def best_threshold(scores: Floats, labels: Floats) -> float:
    """The score at and above which calling an example positive gives the highest F1."""
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[np.argmax(f1[:-1])])
