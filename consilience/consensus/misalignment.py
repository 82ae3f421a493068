"""Which annotator departs from the consensus under which theory."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consilience.consensus.matrix import ScoreMatrix

Floats = NDArray[np.float64]

F1_FLOOR = 0.5


def confusion(matrix: ScoreMatrix, consensus: Floats, tau: float = 0.5) -> NDArray[np.int64]:
    """(T, M, 4): true positives, false positives, false negatives and tasks compared.

    Score and consensus count as acceptable, the positive class, above `tau` (not at it). Tasks without a score or
    without a consensus do not count. Counts of disjoint sets of tasks add up.
    """
    counts = np.zeros((len(matrix.theories), len(matrix.annotators), 4), dtype=np.int64)
    for t, columns in enumerate(matrix.theory_slices.values()):
        known = ~np.isnan(consensus[columns])
        accepted = consensus[columns] > tau
        for m, row in enumerate(matrix.scores[:, columns]):
            said = row > tau
            compared = known & ~np.isnan(row)
            counts[t, m] = [
                np.count_nonzero(said & accepted),
                np.count_nonzero(said & ~accepted & known),
                np.count_nonzero(~said & accepted & compared),
                np.count_nonzero(compared),
            ]
    return counts


def f1_score(counts: NDArray[np.int64]) -> Floats:
    """(T, M) F1 of the acceptable class; NaN where neither side has a positive."""
    true, wrong = counts[..., 0], counts[..., 1] + counts[..., 2]
    positives = 2 * true + wrong
    return np.divide(2.0 * true, positives, out=np.full(true.shape, np.nan), where=positives > 0)


def alignment_table(counts: NDArray[np.int64], annotators: Sequence[str], theories: Sequence[str]) -> pd.DataFrame:
    """The `alignment` table from `confusion`: annotator, theory, f1, n, flagged, reason (missing where not flagged).

    An annotator is flagged under a theory if its F1 is below 0.5, or more than one standard deviation (sample) below
    the mean over annotators under that theory. The published criterion is only "deviates severely" (arXiv
    2506.14625): this rule is the project's, and picks out the cases that were realigned there.
    """
    f1 = f1_score(counts)
    rows = []
    for t, theory in enumerate(theories):
        known = f1[t][~np.isnan(f1[t])]
        mean = known.mean() if len(known) else np.nan
        sd = known.std(ddof=1) if len(known) > 1 else np.nan
        for m, annotator in enumerate(annotators):
            reasons = []
            if f1[t, m] < F1_FLOOR:
                reasons.append(f"F1 {f1[t, m]:.2f} is below {F1_FLOOR:.2f}")
            if f1[t, m] < mean - sd:
                reasons.append(f"F1 {f1[t, m]:.2f} is over one sd ({sd:.2f}) below the theory's mean {mean:.2f}")
            reason = "; ".join(reasons) or None
            rows.append((annotator, theory, f1[t, m], int(counts[t, m, 3]), reason is not None, reason))
    return pd.DataFrame(rows, columns=["annotator", "theory", "f1", "n", "flagged", "reason"])


def alignment(matrix: ScoreMatrix, consensus: Floats, tau: float = 0.5) -> pd.DataFrame:
    """`confusion` and `alignment_table` in one."""
    return alignment_table(confusion(matrix, consensus, tau), matrix.annotators, matrix.theories)


def worst_flagged(alignment: pd.DataFrame, per_annotator: int = 2) -> pd.DataFrame:
    """The flagged rows with the lowest F1, at most `per_annotator` for each annotator: what to realign."""
    return alignment[alignment["flagged"]].sort_values("f1", kind="stable").groupby("annotator").head(per_annotator)


def tau_sweep(matrix: ScoreMatrix, consensus: Floats, taus: Sequence[float]) -> pd.DataFrame:
    """annotator, theory, tau, f1: how far the alignment hangs on the threshold."""
    keys = pd.MultiIndex.from_product([taus, matrix.theories, matrix.annotators], names=["tau", "theory", "annotator"])
    f1 = np.stack([f1_score(confusion(matrix, consensus, tau)) for tau in taus])
    return pd.DataFrame({"f1": f1.ravel()}, index=keys).reset_index()[["annotator", "theory", "tau", "f1"]]
