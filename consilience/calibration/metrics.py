"""How far predicted distributions are from people's votes, with bootstrap intervals.

Blocks of neighbouring items are resampled, since two neighbours in a chain of pairs share an action.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from consilience.calibration.losses import dirichlet_multinomial_nll
from consilience.intervals import Interval, interval, norm_interval

Floats = NDArray[np.float64]

METRICS = ("ce", "ce_calibrated", "dm", "dm_1", "accuracy", "f1_macro", "ece", "js", "tv")
BINS = 10
DRAWS = 1_000


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a system says of n items.

    Attributes:
        p: (n, k) probabilities.
        calibrated: (n, k) the same at the temperature that suits dev best.
        concentration: s of the Dirichlet s p that suits dev best; infinite for a perfect p; NaN where votes are
            shares, which nothing can be fitted to.
    """

    p: Floats
    calibrated: Floats
    concentration: float


class Bootstrap:
    """Figures of items under resamples of their blocks, the same for every system.

    Args:
        votes: (n, k) counts, or shares.
        block: (n,) what is resampled together.
        counted: whether votes are counts.
    """

    def __init__(self, votes: Floats, block: NDArray[np.int64], counted: bool = True, seed: int = 0) -> None:
        names, code = np.unique(block, return_inverse=True)
        drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
        self.votes, self.counted = votes, counted
        self.shares = votes / votes.sum(axis=1, keepdims=True)
        self.weights = np.concatenate([np.ones((1, len(votes))), drawn[:, code]]).astype(np.float64)

    def figures(self, prediction: Prediction) -> dict[str, Interval]:
        """Every one of `METRICS`."""
        found = {name: _interval(values) for name, values in self._figures(prediction, self.weights).items()}
        gaps = calibration_gaps(prediction.p, self.shares, self.weights)
        return {**found, "ece": norm_interval(found["ece"].value, gaps[1:] - gaps[0])}

    def gain(self, better: Prediction, worse: Prediction, metric: str = "ce") -> Interval:
        """`metric` of `worse` less that of `better` on the same resamples."""
        pair = [self._figures(prediction, self.weights)[metric] for prediction in (worse, better)]
        return _interval(pair[0] - pair[1])

    def gap_closed(self, prediction: Prediction, prior: Prediction, bound: float) -> Interval:
        """Share of the way from the prior's cross-entropy to the bound's; the bound is taken as known."""
        own, base = (self._figures(what, self.weights)["ce"] for what in (prediction, prior))
        return _interval((base - own) / (base - bound))

    def bound(self, draws: Iterable[Floats]) -> dict[str, Interval]:
        """Expected figures of draws from the truth's posterior, each with a resample of its own for the interval."""
        whole: dict[str, list[float]] = {name: [] for name in METRICS}
        resampled: dict[str, list[float]] = {name: [] for name in METRICS}
        errors: list[Floats] = []
        for number, p in enumerate(draws):
            rows = self.weights[[0, 1 + number % DRAWS]]
            for name, values in self._figures(Prediction(p, p, np.inf), rows).items():
                whole[name].append(values[0])
                resampled[name].append(values[1])
            errors.append(np.diff(calibration_gaps(p, self.shares, rows), axis=0)[0])
        found = {name: _interval(np.array([np.mean(whole[name]), *resampled[name]])) for name in METRICS}
        return {**found, "ece": norm_interval(found["ece"].value, np.stack(errors))}

    def _figures(self, prediction: Prediction, weights: Floats) -> dict[str, Floats]:
        p, n = prediction.p, weights.sum(axis=1)
        right = p.argmax(axis=1) == self.votes.argmax(axis=1)
        items = {
            "ce": cross_entropies(p, self.shares),
            "ce_calibrated": cross_entropies(prediction.calibrated, self.shares),
            "dm": self._dm(p, prediction.concentration),
            "dm_1": self._dm(p, 1.0),
            "accuracy": right.astype(np.float64),
            "js": js_divergences(p, self.shares),
            "tv": 0.5 * np.abs(p - self.shares).sum(axis=1),
        }
        with np.errstate(invalid="ignore"):  # an infinite loss that is drawn no time
            figures = {name: weights @ values / n for name, values in items.items()}
        figures["f1_macro"] = macro_f1(p.argmax(axis=1), self.votes.argmax(axis=1), p.shape[1], weights)
        figures["ece"] = calibration_error(p, self.shares, weights)
        return {name: figures[name] for name in METRICS}

    def _dm(self, p: Floats, concentration: float) -> Floats:
        """(n,) Dirichlet-multinomial negative log-likelihoods; at an infinite concentration the multinomial's."""
        if not self.counted or np.isnan(concentration):
            return np.full(len(p), np.nan)
        if np.isinf(concentration):
            return cross_entropies(p, self.shares) * self.votes.sum(axis=1)
        return dirichlet_multinomial(p, self.votes, concentration)


def cross_entropies(p: Floats, shares: Floats) -> Floats:
    """(n,) -sum_k h_k ln p_k in nats; infinite where people chose what was called impossible."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(shares > 0, shares * np.log(p), 0.0).sum(axis=1)


def js_divergences(p: Floats, shares: Floats) -> Floats:
    """(n,) Jensen-Shannon divergence in nats, 0 to ln 2."""
    middle = 0.5 * (p + shares)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(q > 0, q * np.log(q / middle), 0.0).sum(axis=1) for q in (p, shares)]
    return 0.5 * (terms[0] + terms[1])


def dirichlet_multinomial(p: Floats, votes: Floats, concentration: float) -> Floats:
    """(n,) negative log-likelihood of votes under Dirichlet(concentration p), see `losses`."""
    with np.errstate(divide="ignore"):
        log_p = torch.from_numpy(np.log(p))
    return dirichlet_multinomial_nll(log_p, torch.from_numpy(votes), float(np.log(concentration))).numpy()


def macro_f1(said: NDArray[np.int64], truth: NDArray[np.int64], options: int, weights: Floats) -> Floats:
    """(d,) unweighted mean of the options' F1 under each row of `weights` (d, n).

    An option that is neither said nor true in a resample is left out, as scikit-learn does by default.
    """
    scores = np.full((options, len(weights)), np.nan)
    for option in range(options):
        mine, theirs = said == option, truth == option
        both = weights @ (mine & theirs)
        either = weights @ mine.astype(np.float64) + weights @ theirs.astype(np.float64)
        np.divide(2.0 * both, either, out=scores[option], where=either > 0)
    return np.nanmean(scores, axis=0)


def calibration_error(p: Floats, shares: Floats, weights: Floats) -> Floats:
    """(d,) expected calibration error, the mean over the options: in ten bins of equal width, |mean probability - mean
    share of people|, weighted by the items in each. It cannot be negative, so on few items it is above 0 by chance."""
    return np.abs(calibration_gaps(p, shares, weights)).sum(axis=1)


def calibration_gaps(p: Floats, shares: Floats, weights: Floats) -> Floats:
    """(d, 10 k) mean probability - mean share of people in each bin of each option, times the share of items that is in
    the bin, by the number of options: the vector whose L1 norm is the expected calibration error."""
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    member = np.eye(BINS)[bins] * (p - shares)[:, :, None]
    return (weights @ member.reshape(len(p), -1)) / (weights.sum(axis=1, keepdims=True) * p.shape[1])


def _interval(figures: Floats) -> Interval:
    """As `interval`; infinite where the first figure is."""
    return Interval(np.inf, np.inf, np.inf) if np.isinf(figures[0]) else interval(figures)
