"""How far annotators' scores depend on one another: any common signal at all, and residuals that go together."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]

KIN_LEVEL = 0.05  # family-wise error of calling any two residual series correlated
SHUFFLES = 40
SHUFFLED_TASKS = 2000  # enough to see any correlation above 0.1


def shared_votes(residual: Floats, seen: Floats) -> Floats:
    """(M,) 1 / (1 + sum of an annotator's significantly positive residual correlations), in 0..1.

    For k annotators of pairwise correlation r it is 1 / (1 + (k - 1) r): together they are as many as a mean of k such
    residuals has independent ones.

    Args:
        residual: (M, N) scores less what the consensus explains, 0 where missing.
        seen: (M, N) 1 where there is a score, else 0.
    """
    overlap = seen @ seen.T
    square = (residual**2) @ seen.T
    correlation = (residual @ residual.T) / np.sqrt(np.maximum(square * square.T, 1e-300))
    pairs = max(len(residual) * (len(residual) - 1) / 2, 1.0)
    strength = np.arctanh(np.clip(correlation, -0.999, 0.999)) * np.sqrt(np.maximum(overlap - 3.0, 0.0))
    kin = np.where(strength > ndtri(1.0 - KIN_LEVEL / pairs), correlation, 0.0)
    np.fill_diagonal(kin, 0.0)
    return 1.0 / (1.0 + kin.sum(1))


def correlation_scores(standard: Floats, seen: Floats) -> Floats:
    """(M, M) sqrt(n) r of each pair, of variance about 1 under independence whatever its overlap n; diagonal 0."""
    cells = (standard @ standard.T) / np.sqrt(seen @ seen.T + 1.0)
    np.fill_diagonal(cells, 0.0)
    return cells


def has_signal(standard: Floats, seen: Floats) -> bool:
    """Whether the annotators correlate more than they do once each one's scores are shuffled over its tasks.

    Two statistics, either 3 standard deviations above its shuffles: the sum of the correlations, powerful in a sparse
    pool that mostly agrees, and their largest eigenvalue, which an inverted annotator cannot cancel. The shuffles keep
    the pattern of missing scores and each annotator's distribution (parallel analysis, Horn 1965). On the 2,000 tasks
    with most scores.
    """
    densest = np.sort(np.argsort(-seen.sum(0), kind="stable")[:SHUFFLED_TASKS])
    shuffled, seen = standard[:, densest], seen[:, densest]
    found = _agreement(shuffled, seen)
    random = np.random.default_rng(0)
    places = [np.flatnonzero(row) for row in seen]
    chance = np.empty((SHUFFLES, 2))
    for shuffle in range(SHUFFLES):
        for row, place in zip(shuffled, places, strict=True):
            row[place] = random.permutation(row[place])
        chance[shuffle] = _agreement(shuffled, seen)
    return bool(np.any(found > chance.mean(0) + 3.0 * chance.std(0, ddof=1)))


def _agreement(standard: Floats, seen: Floats) -> Floats:
    cells = correlation_scores(standard, seen)
    return np.array([cells.sum(), np.linalg.eigvalsh(cells)[-1]])
