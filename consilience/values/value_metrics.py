"""How good a classifier's probabilities are: AUC, accuracy, expected calibration error, with bootstrap intervals.

Situations are resampled, all texts of one together: the two actions of a story are no independent evidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consilience.intervals import Interval, draw_situations, interval, norm_interval

Floats = NDArray[np.float64]

BINS = 10
DRAWS = 500


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one system on one set of texts."""

    auc: Interval
    accuracy: Interval
    ece: Interval


class Bootstrap:
    """Figures of texts under `DRAWS` resamples of their situations, the same for every system.

    Intervals are NaN where all texts are of one situation, which is the same in every resample.

    Attributes:
        labels: (n,) 0 or 1.
        weights: (1 + DRAWS, n) how often each text counts; the first row is the sample itself.
    """

    def __init__(self, labels: Floats, situations: Sequence[str], seed: int = 0) -> None:
        number, weights = draw_situations(situations, DRAWS, seed)
        self.labels = labels
        self.weights = weights[:, number]
        self._several = weights.shape[1] > 1

    def quality(self, scores: Floats) -> Quality:
        """Figures of (n,) probabilities."""
        auc, accuracy = (
            self._interval(figure(self.labels, scores, self.weights)) for figure in (weighted_auc, weighted_accuracy)
        )
        ece = Interval(float(weighted_ece(self.labels, scores, self.weights[:1])[0]), np.nan, np.nan)
        if self._several:
            gaps = weighted_gaps(self.labels, scores, self.weights)
            ece = norm_interval(ece.value, gaps[1:] - gaps[0])
        return Quality(auc, accuracy, ece)

    def auc_gain(self, scores: Floats, baseline: Floats) -> Interval:
        """AUC of `scores` minus that of `baseline`, paired."""
        return self._interval(
            weighted_auc(self.labels, scores, self.weights) - weighted_auc(self.labels, baseline, self.weights)
        )

    def _interval(self, figures: Floats) -> Interval:
        return interval(figures) if self._several else Interval(float(figures[0]), np.nan, np.nan)


def weighted_auc(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    """(d,) area under the ROC curve, ties counted half; NaN where a row of `weights` (d, n) has one class alone."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    positive, negative = (
        np.add.reduceat(weights[:, order] * (labels[order] == label), starts, axis=1) for label in (1, 0)
    )
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    wins = (positive * (below + 0.5 * negative)).sum(axis=1)
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def weighted_accuracy(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    """(d,) share of texts on whose label the probability, cut at 0.5, is right."""
    right = (scores >= 0.5) == (labels == 1)
    return (weights @ right) / weights.sum(axis=1)


def weighted_ece(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    """(d,) expected calibration error: over ten bins of equal width, |mean probability - share of positives|, weighted
    by the texts in each. It cannot be negative, so on few texts it is above 0 by chance alone."""
    return np.abs(weighted_gaps(labels, scores, weights)).sum(axis=1)


def weighted_gaps(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    """(d, 10) mean probability - share of positives in each bin, times the share of texts that is in it."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    member = np.eye(BINS)[bins]
    return (weights @ (member * (scores - labels)[:, None])) / weights.sum(axis=1, keepdims=True)
