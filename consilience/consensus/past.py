r"""What a saved consensus keeps of the tasks it was fitted on, so that it can be updated and watched without them.

- Curvature. The statistics of the M-step move with the log-density ratios: with $x_i$ the features (1, and 1, a, a^2 of
  every annotator, 0 where missing) of task i and c their coefficients, $\lambda_i = c \cdot x_i$ and

  $$\frac{\partial}{\partial c} \sum_i \gamma_i x_i = \sum_i \gamma_i (1 - \gamma_i) x_i x_i^\top .$$

  So old tasks follow new parameters to first order; plain incremental EM (Neal and Hinton 1998) leaves them behind.
- Counts. How each annotator's scores (in its own quintiles) fell where the others judged a task acceptable and where
  they did not: what its later scores are held against.

Both are sums over tasks: those of disjoint sets of tasks add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.posterior import Parameters, Shard

Floats = NDArray[np.float64]

BINS = 5
_BLOCK = 4096  # tasks whose features are laid out at a time


@dataclass(frozen=True, eq=False)
class Past:
    """Sums over tasks of T theories and M annotators.

    Attributes:
        curvature: (T, 1 + 3M, 1 + 3M) see the module; tasks pinned by gold do not count, their gamma cannot move.
        edges: (M, 4) quintiles of each annotator's scores.
        counts: (M + 1, M, T, 2, 5) scores of annotator m (second axis) under a theory, by the verdict of the others
            (0 unacceptable, 1 acceptable) and by quintile. The first axis names one more annotator who has no say in
            the verdict; at M all others have.
    """

    curvature: Floats
    edges: Floats
    counts: Floats

    @staticmethod
    def shapes(theories: int, annotators: int) -> dict[str, tuple[int, ...]]:
        """Shape of each attribute."""
        features = 1 + 3 * annotators
        return {
            "curvature": (theories, features, features),
            "edges": (annotators, BINS - 1),
            "counts": (annotators + 1, annotators, theories, 2, BINS),
        }

    def __add__(self, other: "Past") -> "Past":
        return Past(self.curvature + other.curvature, self.edges, self.counts + other.counts)

    def __sub__(self, other: "Past") -> "Past":
        return Past(self.curvature - other.curvature, self.edges, np.maximum(self.counts - other.counts, 0.0))


def quintiles(matrix: ScoreMatrix) -> Floats:
    """(M, 4) quintiles of each annotator's scores; those of the uniform law where it has none."""
    inner = np.arange(1, BINS) / BINS
    return np.stack([np.quantile(row, inner) if len(row) else inner for row in _observed(matrix)])


def remember(shard: Shard, parameters: Parameters, edges: Floats) -> Past:
    """The past of the tasks of `shard` under `parameters`.

    Args:
        shard: all of the tasks, or some of them: then the results add up.
        parameters: of the fitted consensus.
        edges: (M, 4) from `quintiles`, of all tasks or of a large sample.
    """
    matrix, coefficients = shard.matrix, parameters.log_ratio_coefficients()
    M, N = matrix.scores.shape
    shapes = Past.shapes(len(matrix.theories), M)
    curvature, counts = np.zeros(shapes["curvature"]), np.zeros(shapes["counts"])
    evidence = np.empty((M, N))
    free = np.ones(N)
    free[shard.gold_task] = 0.0
    for t, columns in enumerate(matrix.theory_slices.values()):
        for start in range(columns.start, columns.stop, _BLOCK):
            block = slice(start, min(start + _BLOCK, columns.stop))
            features = _features(matrix.scores[:, block])
            terms = coefficients[t].reshape(-1, 1) * features[1:]
            evidence[:, block] = terms.reshape(M, 3, -1).sum(axis=1)
            gamma = expit(parameters.log_odds()[t] + evidence[:, block].sum(axis=0))
            curvature[t] += (features * (gamma * (1.0 - gamma) * free[block])) @ features.T
    _count(matrix, parameters, evidence, edges, counts)
    return Past(curvature, edges, counts)


def coefficients(parameters: Parameters) -> Floats:
    """(T, 1 + 3M): prior log-odds, then c0, c1, c2 of every annotator."""
    ratio = parameters.log_ratio_coefficients()
    return np.column_stack([parameters.log_odds(), ratio.reshape(len(ratio), -1)])


def _features(scores: Floats) -> Floats:
    """(1 + 3M, n) of (M, n) scores."""
    seen = ~np.isnan(scores)
    filled = np.nan_to_num(scores)
    moments = np.stack([seen, filled, filled**2], axis=1).reshape(-1, scores.shape[1])
    return np.concatenate([np.ones((1, scores.shape[1])), moments])


def _count(matrix: ScoreMatrix, parameters: Parameters, evidence: Floats, edges: Floats, counts: Floats) -> None:
    """Fill `counts` from the (M, N) evidence of every score."""
    theory = np.repeat(np.arange(len(matrix.theories)), np.diff(matrix.offsets))
    log_odds = parameters.log_odds()[theory] + evidence.sum(axis=0)
    M = len(evidence)
    for m in range(M):
        seen = ~np.isnan(matrix.scores[m])
        quintile = np.searchsorted(edges[m], matrix.scores[m, seen], side="right")
        others = (log_odds - evidence[m])[seen]
        for silent in range(M + 1):
            verdict = others if silent in (m, M) else others - evidence[silent, seen]
            cell = (2 * theory[seen] + (verdict > 0.0)) * BINS + quintile
            counts[silent, m] = np.bincount(cell, minlength=counts[silent, m].size).reshape(counts.shape[2:])


def _observed(matrix: ScoreMatrix) -> Sequence[Floats]:
    return [row[~np.isnan(row)] for row in matrix.scores]
