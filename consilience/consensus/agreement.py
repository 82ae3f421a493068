"""How far annotators agree, and how many independent ones they amount to."""

import numpy as np
from numpy.typing import NDArray

from consilience.consensus import baselines
from consilience.consensus.matrix import ScoreMatrix

Floats = NDArray[np.float64]


def disagreement(matrix: ScoreMatrix) -> Floats:
    """(N,) standard deviation (population) of each task's scores; NaN where fewer than two annotators scored it."""
    count = baselines.score_count(matrix)
    centre = baselines.mean(matrix)
    squares = np.zeros(len(count))
    for row in matrix.scores:
        squares += np.nan_to_num(row - centre) ** 2
    return np.sqrt(np.divide(squares, count, out=np.full(len(count), np.nan), where=count > 1))


def krippendorff_alpha(matrix: ScoreMatrix) -> float:
    r"""Krippendorff's alpha with the interval metric, for any pattern of missing scores.

    $\alpha = 1 - D_o / D_e$: the mean squared difference of two scores of the same task over that of any two scores,

    $$D_o = \frac{1}{n} \sum_u \frac{1}{n_u - 1} \sum_{i \ne j} (a_{ui} - a_{uj})^2, \qquad
    D_e = \frac{1}{n (n-1)} \sum_{u,v} \sum_{i,j} (a_{ui} - a_{vj})^2,$$

    over tasks u with $n_u \ge 2$ scores, n of them in all. The inner sums come from sums and sums of squares.

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011).

    Returns:
        1 for perfect agreement, about 0 for chance, below 0 for systematic disagreement; NaN where no task has two
        scores or all scores are equal.
    """
    return float(alpha_of(alpha_terms(matrix).sum(axis=1)))


def alpha_terms(matrix: ScoreMatrix) -> Floats:
    """(4, N) what each task adds to the sums that `alpha_of` takes; zero where a task has fewer than two scores."""
    count = baselines.score_count(matrix).astype(np.float64)
    centre = float(np.nanmean(matrix.scores)) if count.any() else 0.0
    total, squares = np.zeros(len(count)), np.zeros(len(count))
    for row in matrix.scores:
        score = np.nan_to_num(row - centre)
        total += score
        squares += score**2
    within = 2.0 * (count * squares - total**2) / np.maximum(count - 1.0, 1.0)
    return np.stack([count, within, total, squares]) * (count > 1)


def alpha_of(sums: Floats) -> Floats:
    """Krippendorff's alpha from (4, ...) sums over tasks of `alpha_terms`; NaN where it is not defined."""
    n, within, total, squares = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = within / n
        expected = 2.0 * (n * squares - total**2) / (n * (n - 1.0))
        return np.where(expected > 1e-12, 1.0 - observed / expected, np.nan)


def error_correlation(matrix: ScoreMatrix, consensus: Floats) -> Floats:
    r"""Correlation of two annotators' scores given the label: what the EM takes to be zero.

    $$\rho_{mk} \propto \sum_i \gamma_i (a_{mi} - E_1[a_m]) (a_{ki} - E_1[a_k])
    + (1 - \gamma_i) (a_{mi} - E_0[a_m]) (a_{ki} - E_0[a_k]),$$

    over the tasks that both scored, with $E_c[a_m]$ the annotator's weighted mean in class c under the task's theory,
    and scaled by the two sums of squares. The scores of an inverted annotator, which fall where the posterior rises,
    are turned round: a low score from it is the same evidence as a high one from the others. Weighing both classes by
    the posterior, rather than subtracting the one expected score, keeps the estimate unbiased where the model holds:
    the posterior depends on both scores, so residuals from it would correlate negatively. Where it is positive, the
    posterior counts the same evidence several times. A leave-one-out mean of the annotators would not do as reference:
    subtracting it removes just what is shared, and leaves -1 / (M - 1) on average whatever the annotators do. Without
    people's judgements an error that all annotators share cannot be told from the truth, so this is a lower bound.

    Args:
        matrix: M annotators, N tasks.
        consensus: (N,) probability that the task is acceptable; tasks where it is NaN do not count.

    Returns:
        (M, M), 1 on the diagonal; NaN where fewer than three tasks are shared or an annotator does not vary.
    """
    seen = (~np.isnan(matrix.scores) & ~np.isnan(consensus)).astype(np.float64)
    products, squares = np.zeros((len(seen), len(seen))), np.zeros((len(seen), len(seen)))
    rise = np.zeros(len(seen))  # covariance of score and consensus, summed over theories
    for sign, weight in ((1.0, np.nan_to_num(consensus)), (-1.0, np.nan_to_num(1.0 - consensus))):
        for columns in matrix.theory_slices.values():
            use = seen[:, columns]
            scores = np.nan_to_num(matrix.scores[:, columns])
            total = use @ weight[columns]
            mean = np.divide((scores * use) @ weight[columns], total, out=np.zeros_like(total), where=total > 0.0)
            residual = (scores - mean[:, None]) * use * np.sqrt(weight[columns])
            products += residual @ residual.T
            squares += residual**2 @ use.T
            rise += sign * mean * total * (1.0 - total / np.maximum(use.sum(axis=1), 1.0))
    direction = np.where(rise < 0.0, -1.0, 1.0)
    products *= np.outer(direction, direction)
    scale = np.sqrt(squares * squares.T)
    enough = (seen @ seen.T >= 3) & (scale > 1e-12)
    return np.clip(np.divide(products, scale, out=np.full_like(scale, np.nan), where=enough), -1.0, 1.0)


def effective_annotators(correlation: Floats) -> float:
    r"""How many independent annotators would hold as much evidence (Kish's design effect).

    $n_{eff} = M / (1 + (M - 1) \bar\rho)$ with $\bar\rho$ the mean correlation of two different annotators, not below
    zero: a mean of M variables of equal variance, correlated by rho, varies as one of n_eff independent ones.

    Args:
        correlation: (M, M) from `error_correlation`; annotators without any known correlation are left out.
    """
    off_diagonal = correlation[~np.eye(len(correlation), dtype=np.bool_)].reshape(len(correlation), -1)
    varying = ~np.isnan(off_diagonal).all(axis=1)
    M = int(varying.sum())
    if M == 0:
        return float("nan")
    mean = max(float(np.nanmean(off_diagonal)), 0.0)
    return M / (1.0 + (M - 1) * mean)
