r"""Whether an annotator's new scores are still those of the annotator it was.

Each annotator's scores are tabled by quintile of its own past scores, apart for tasks that the other annotators judge
acceptable and tasks that they do not. Past and new scores then make two rows of counts, compared by the
Cochran-Mantel-Haenszel test of general association with theories as strata: with $n_{1q}$ new scores in quintile q and
row sums $n_0, n_1$ of n scores,

$$d_q = \sum_t \left( n_{1q} - n_1 \frac{n_{\cdot q}}{n} \right), \quad
V = \sum_t \frac{n_0 n_1}{n - 1} (\operatorname{diag} p - p p^\top), \quad p_q = \frac{n_{\cdot q}}{n}, \quad
X^2 = d^\top V^{-} d,$$

chi-squared with rank V degrees of freedom if past and new scores are exchangeable; the two verdicts' statistics add up.
Nothing is assumed of the scores' distribution, and a batch may hold the theories in other shares. It may also hold
somewhat more or fewer acceptable items (10 points raised no alarm in simulation); items of quite another kind raise the
alarm for most annotators together, and then it is the items that have changed.

Source: Landis, Heyman and Koch, "Average partial association in three-way contingency tables" (1978).
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2

from consilience.consensus.incremental import Scores, arranged
from consilience.consensus.matrix import as_matrix
from consilience.consensus.model import ConsensusModel
from consilience.consensus.past import remember
from consilience.consensus.posterior import Shard
from consilience.errors import UserError

Floats = NDArray[np.float64]


def drift_alarm(model: ConsensusModel, scores: Scores, level: float = 0.01) -> pd.DataFrame:
    """Which annotators depart from their past in new scores.

    Annotators are tested together (Bonferroni): a batch in which none has changed raises any alarm with probability
    `level`, about. An annotator that has changed also spoils the others' verdicts, so once the clearest case is found,
    the rest are tested again on verdicts without it. Several that change at once can still implicate others.

    Args:
        model: with its past, not updated with these scores.
        scores: matrix, or table of item_id, theory, annotator, score; annotators and theories that the model does not
            know are left out.
        level: probability of a false alarm, per batch.

    Returns:
        annotator, n (new scores), p (of so large a departure by chance), alarm; the clearest first.

    Raises:
        UserError: a model without a past, or bad scores (see `ScoreMatrix.from_frame`).
    """
    if model.past is None:
        raise UserError("this consensus was saved without its past: fit it again on all annotations")
    past = model.past.counts
    matrix = arranged(as_matrix(scores), model.annotators, model.theories)
    new = remember(Shard(matrix), model.parameters, model.past.edges).counts
    M = len(model.annotators)
    n = new[M].sum(axis=(1, 2, 3))
    p = np.array([_p_value(past[M, m], new[M, m]) for m in range(M)])
    worst = int(np.argmin(p))
    tests = max(int(np.count_nonzero(n)), 1)
    alarm = np.zeros(M, dtype=np.bool_)
    if p[worst] < level / tests:
        others = [m for m in range(M) if m != worst]
        p[others] = [_p_value(past[worst, m], new[worst, m]) for m in others]
        alarm = p < level / tests
    table = pd.DataFrame({"annotator": model.annotators, "n": n.astype(np.int64), "p": p, "alarm": alarm})
    return table.sort_values("p", kind="stable", ignore_index=True)


def _p_value(past: Floats, new: Floats) -> float:
    """Of the (T, 2, 5) counts of one annotator; 1 where there is nothing to compare."""
    statistic, freedom = 0.0, 0
    for verdict in range(past.shape[1]):
        old_row, new_row = past[:, verdict].sum(axis=1), new[:, verdict].sum(axis=1)
        both = (old_row > 0) & (new_row > 0)
        n0, n1 = old_row[both, None], new_row[both, None]
        share = (past[both, verdict] + new[both, verdict]) / (n0 + n1)
        departure = np.sum(new[both, verdict] - n1 * share, axis=0)
        weight = n0 * n1 / (n0 + n1 - 1.0)
        variance = np.diag(np.sum(weight * share, axis=0)) - (weight * share).T @ share
        statistic += float(departure @ np.linalg.pinv(variance, rcond=1e-9, hermitian=True) @ departure)
        freedom += int(np.linalg.matrix_rank(variance, rtol=1e-9, hermitian=True))
    return float(chi2.sf(statistic, freedom)) if freedom else 1.0
