"""Consensus without a model: mean, median and majority. Each is (N,), NaN where a task has no score."""

import numpy as np
from numpy.typing import NDArray

from consilience.consensus.matrix import ScoreMatrix

Floats = NDArray[np.float64]


def score_count(matrix: ScoreMatrix) -> NDArray[np.int64]:
    """(N,) annotators who scored each task."""
    count = np.zeros(matrix.scores.shape[1], dtype=np.int64)
    for row in matrix.scores:
        count += ~np.isnan(row)
    return count


def mean(matrix: ScoreMatrix) -> Floats:
    """Plain mean of the scores of each task."""
    total = np.zeros(matrix.scores.shape[1])
    for row in matrix.scores:
        total += np.nan_to_num(row)
    return _ratio(total, score_count(matrix))


def median(matrix: ScoreMatrix) -> Floats:
    """Median of the scores of each task; the mean of the middle two where their number is even."""
    count = score_count(matrix)
    ranked = np.sort(matrix.scores, axis=0)  # NaN last
    tasks = np.arange(len(count))
    # A task without scores has count 0: positions -1 and 0 both hold NaN.
    return 0.5 * (ranked[(count - 1) // 2, tasks] + ranked[count // 2, tasks])


def majority(matrix: ScoreMatrix) -> Floats:
    """1 where more than half of the scores are above 0.5, 0 where fewer, 0.5 in a tie."""
    votes = np.zeros(matrix.scores.shape[1])
    for row in matrix.scores:
        votes += row > 0.5
    share = _ratio(votes, score_count(matrix))
    return np.where(np.isnan(share), np.nan, 0.5 * (1.0 + np.sign(share - 0.5)))


def _ratio(total: Floats, count: NDArray[np.int64]) -> Floats:
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
