"""Scores drawn from the consensus model itself, for tests that know the truth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from consilience.consensus.matrix import ScoreMatrix

# mu1, sigma1, mu0, sigma0 of four annotators, as published in arXiv 2506.14625 (group G1).
PUBLISHED = np.array(
    [
        [0.658, 0.129, 0.418, 0.140],
        [0.571, 0.143, 0.373, 0.127],
        [0.546, 0.147, 0.274, 0.159],
        [0.529, 0.158, 0.401, 0.135],
    ]
)


def draw(
    tasks: int, seed: int, parameters: NDArray[np.float64] = PUBLISHED, prior: float = 0.45
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels (N,) and scores (M, N)."""
    rng = np.random.default_rng(seed)
    label = rng.random(tasks) < prior
    mu = np.where(label, parameters[:, [0]], parameters[:, [2]])
    sigma = np.where(label, parameters[:, [1]], parameters[:, [3]])
    low, high = ndtr(-mu / sigma), ndtr((1 - mu) / sigma)
    return label, np.clip(mu + sigma * ndtri(low + rng.random(mu.shape) * (high - low)), 0.0, 1.0)


def matrix_of(scores: NDArray[np.float64], theories: Sequence[str] | None = None) -> ScoreMatrix:
    """Annotators a0, a1, ...; items 0, 1, ... in order, all under one theory unless given."""
    tasks = scores.shape[1]
    return ScoreMatrix.from_arrays(
        scores, [f"a{m}" for m in range(len(scores))], [str(i) for i in range(tasks)], theories or ["justice"] * tasks
    )
