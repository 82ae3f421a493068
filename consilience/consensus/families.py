"""Families of near-copies: annotators who share more than the signal that all share."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.special import ndtri

from consilience.consensus.matrix import ScoreMatrix

Floats = NDArray[np.float64]

NEAR_COPY = 0.5  # of two annotators' own variation, over half in common: two of them are worth less than 4/3 of one
LEVEL = 0.05  # probability of calling any two independent annotators near-copies
MIN_SHARED = 20  # tasks, below which a correlation of coarse ratings can be high by chance
MAX_COMMUNALITY = 0.95  # of a score's variance due to what all share: keeps the rest from being a ratio of two zeros
_BISQUARE = 4.685  # standard errors beyond which a cell has no say: 95 % efficient for normal errors


def families(matrix: ScoreMatrix) -> pd.DataFrame:
    """Annotators grouped where their residual correlations are significantly above one half.

    Groups are merged by average linkage of the correlations' lower confidence bounds (Fisher's z, one-sided 5 % over
    all pairs), as long as that average is above 0.5: a chain of look-alikes is not enough. Pairs with fewer than 20
    tasks in common count as unrelated. A family of more than half of the annotators is what all share, to this as to
    any method that has only their scores: its members then look unrelated.

    Returns:
        annotator, family (named after its first member; missing for annotators with no near-copy), closest (the
        annotator with the highest residual correlation), correlation (with it; both missing where there is none).
    """
    correlation, shared = residual_correlation(matrix)
    M = len(correlation)
    names = np.asarray(matrix.annotators, dtype=object)
    family = np.full(M, None, dtype=object)
    if M > 1:
        error = -ndtri(LEVEL / (M * (M - 1) / 2)) / np.sqrt(np.maximum(shared - 3.0, 1.0))
        bound = np.tanh(np.arctanh(np.clip(correlation, -0.999999, 0.999999)) - error)
        distance = np.where(np.isnan(bound), 2.0, 1.0 - bound)
        np.fill_diagonal(distance, 0.0)
        label = fcluster(linkage(squareform(distance, checks=False), "average"), 1.0 - NEAR_COPY, "distance")
        for members in (np.flatnonzero(label == one) for one in np.unique(label)):
            if len(members) > 1:
                family[members] = names[members[0]]
    apart = np.where(np.eye(M, dtype=np.bool_) | np.isnan(correlation), -np.inf, correlation)
    closest, highest = apart.argmax(axis=1), apart.max(axis=1)
    known = np.isfinite(highest)
    return pd.DataFrame(
        {
            "annotator": names,
            "family": family,
            "closest": [names[one] if there else None for one, there in zip(closest, known, strict=True)],
            "correlation": np.where(known, highest, np.nan),
        }
    )


def residual_correlation(matrix: ScoreMatrix) -> tuple[Floats, NDArray[np.int64]]:
    r"""Correlation of two annotators' scores beyond what one factor, common to all, explains.

    With $r_{mk}$ the correlations of scores and $l_m$ the loadings of a rank-one fit to those off the diagonal,
    $\rho_{mk} = (r_{mk} - l_m l_k) / \sqrt{(1 - l_m^2)(1 - l_k^2)}$. The fit is robust (Tukey's bisquare), so that a
    pair of copies stands out from it instead of becoming the factor. Unlike correlation given a label
    (`agreement.error_correlation`), it is zero for independent annotators also where acceptability is a matter of
    degree.

    Returns:
        (M, M) correlations, 1 on the diagonal, NaN where fewer than 20 tasks are shared or an annotator does not vary
        on them; and (M, M) numbers of shared tasks.
    """
    seen = (~np.isnan(matrix.scores)).astype(np.float64)
    shared = seen @ seen.T
    centre = (np.nan_to_num(matrix.scores).sum(axis=1) / np.maximum(seen.sum(axis=1), 1.0))[:, None]
    filled = np.nan_to_num(matrix.scores - centre)
    count = np.maximum(shared, 1.0)
    mean = filled @ seen.T / count  # of annotator m on the tasks it shares with k
    variance = filled**2 @ seen.T / count - mean**2
    scale = np.sqrt(np.maximum(variance * variance.T, 0.0))
    known = (shared >= MIN_SHARED) & (scale > 1e-9)
    correlation = np.divide(filled @ filled.T / count - mean * mean.T, scale, out=np.zeros_like(scale), where=known)
    off_diagonal = known & ~np.eye(len(known), dtype=np.bool_)
    loading = _robust_loadings(correlation, np.where(off_diagonal, shared - 3.0, 0.0))
    own = np.sqrt(1.0 - loading**2)
    residual = np.clip((correlation - np.outer(loading, loading)) / np.outer(own, own), -1.0, 1.0)
    residual[~known] = np.nan
    np.fill_diagonal(residual, 1.0)
    return residual, shared.astype(np.int64)


def _robust_loadings(correlation: Floats, precision: Floats) -> Floats:
    """(M,) loadings l with l_m l_k near the correlations; `precision` is 1 / variance of their Fisher z, 0 = unknown.

    Weighted least squares again and again, from cells that all count to cells that count by bisquare weights, with the
    cut-off drawn in step by step from 30 standard errors: copies are far out and lose their say first.
    """
    values, vectors = np.linalg.eigh(np.where(precision > 0.0, correlation, 0.0))
    loading = _least_squares(correlation, precision, vectors[:, -1] * np.sqrt(max(values[-1], 0.0)))
    for cutoff in (*np.geomspace(30.0, _BISQUARE, 12), *[_BISQUARE] * 5):
        fitted = np.outer(loading, loading)
        error = (correlation - fitted) * np.sqrt(precision) / (1.0 - fitted**2)
        weight = precision * np.maximum(1.0 - (error / cutoff) ** 2, 0.0) ** 2
        loading = _least_squares(correlation, weight, loading)
    return loading


def _least_squares(correlation: Floats, weight: Floats, loading: Floats) -> Floats:
    """The nearby minimum of sum weight (correlation - l l')^2, by damped alternation."""
    for _ in range(200):
        before = loading
        step = (weight * correlation) @ loading / np.maximum(weight @ loading**2, 1e-12)
        loading = np.clip(0.5 * (loading + step), -np.sqrt(MAX_COMMUNALITY), np.sqrt(MAX_COMMUNALITY))
        if np.abs(loading - before).max() < 1e-6:
            break
    return loading
