"""What a consensus is compared with: means, votes, weights, one annotator. (N,), NaN where a task has no score."""

import numpy as np
import pandas as pd
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


def weighted_mean(matrix: ScoreMatrix, rounds: int = 10) -> Floats:
    r"""Mean of the scores weighted by how far each annotator goes with the others; needs no labels.

    $$w_m = \frac{c_m}{v_m (1 - c_m^2)}, \quad c_m = \max\Bigl(0, r_m - \frac{1 - r_m^2}{\sqrt{n_m - 2}}\Bigr),$$

    with $r_m$ the correlation of the annotator's n_m scores with the weighted mean of the others' (equal weights in the
    first round), drawn to zero by its standard error, and $v_m$ the variance of its scores, so that $v_m (1 - c_m^2)$
    is what the others leave unexplained. The plain mean where no one has weight.
    """
    scores = matrix.scores
    seen = ~np.isnan(scores)
    variance = np.array([max(np.var(row[~np.isnan(row)]), 1e-3) if not np.isnan(row).all() else 1.0 for row in scores])
    weights = np.ones(len(scores))
    for _ in range(rounds):
        r = _agreement_with_others(scores, weights)
        sure = np.maximum(r - (1.0 - r**2) / np.sqrt(np.maximum(seen.sum(axis=1) - 2, 1)), 0.0)
        weights = sure / (variance * np.maximum(1.0 - sure**2, 0.05))
        weights = weights / weights.max() if weights.max() > 0.0 else np.ones(len(scores))
    weight = weights @ seen
    weighed = np.divide(weights @ np.nan_to_num(scores), weight, out=np.zeros(len(weight)), where=weight > 0.0)
    return np.where(weight > 0.0, weighed, mean(matrix))


def best_single(matrix: ScoreMatrix) -> Floats:
    """The annotator that correlates best with the mean of the others; the plain mean of the tasks it did not score."""
    best = matrix.scores[np.argmax(_agreement_with_others(matrix.scores, np.ones(len(matrix.scores))))]
    return np.where(np.isnan(best), mean(matrix), best)


def dawid_skene(matrix: ScoreMatrix) -> Floats:
    """Dawid and Skene's (1979) probability of the acceptable class, from scores read as votes (above 0.5 or not)."""
    from crowdkit.aggregation import DawidSkene  # here, because it takes seconds to import

    worker, task = np.nonzero(~np.isnan(matrix.scores))
    votes = pd.DataFrame({"task": task, "worker": worker, "label": (matrix.scores[worker, task] > 0.5).astype(int)})
    probability = DawidSkene(n_iter=100).fit_predict_proba(votes).reindex(columns=[0, 1], fill_value=0.0)
    return probability[1].reindex(range(matrix.scores.shape[1])).to_numpy(dtype=np.float64)


def _agreement_with_others(scores: Floats, weights: Floats) -> Floats:
    """(M,) correlation of each annotator with the weighted mean of the others; 0 where either does not vary."""
    seen = ~np.isnan(scores)
    filled = np.nan_to_num(scores)
    total, weight = weights @ filled, weights @ seen
    agreement = np.zeros(len(scores))
    for m, row in enumerate(scores):
        rest = weight - weights[m] * seen[m]
        both = seen[m] & (rest > 1e-9)
        others = (total[both] - weights[m] * row[both]) / rest[both]
        if both.sum() > 2 and np.ptp(row[both]) > 0.0 and np.ptp(others) > 0.0:
            agreement[m] = np.corrcoef(row[both], others)[0, 1]
    return agreement


def _ratio(total: Floats, count: NDArray[np.int64]) -> Floats:
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
