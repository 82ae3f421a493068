"""What one annotator does to a consensus: the plain mean and the EM with it, against the same without it."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from consilience.consensus.baselines import mean
from consilience.consensus.matrix import ScoreMatrix

MIN_ANNOTATORS = 4


def influence(matrix: ScoreMatrix, consensus: Callable[[ScoreMatrix], npt.NDArray[np.float64]]) -> pa.Table:
    """Influence of every annotator on the plain mean and on `consensus`, by leaving it out.

    Args:
        matrix: scores of at least `MIN_ANNOTATORS` annotators, so that three remain.
        consensus: fits a matrix and returns its (n_tasks,) consensus.

    Returns:
        The `influence` table: mean absolute change (0..1) and share of tasks whose label at 0.5 flips, each null
        where no task has both values.
    """
    full = {"mean": mean(matrix), "em": consensus(matrix)}
    rows = []
    for position, annotator in enumerate(matrix.annotators):
        rest = _without(matrix, position)
        left = {"mean": mean(rest), "em": consensus(rest)}
        row: dict[str, object] = {"annotator": annotator}
        for method, with_it in full.items():
            both = ~np.isnan(with_it) & ~np.isnan(left[method])
            a, b = with_it[both], left[method][both]
            row[f"{method}_shift"] = float(np.abs(a - b).mean()) if both.any() else None
            row[f"{method}_flipped"] = float(((a > 0.5) != (b > 0.5)).mean()) if both.any() else None
        rows.append(row)
    return pa.Table.from_pylist(rows)


def _without(matrix: ScoreMatrix, position: int) -> ScoreMatrix:
    names = [name for row, name in enumerate(matrix.annotators) if row != position]
    scores = np.delete(matrix.scores, position, axis=0)
    return ScoreMatrix(names, matrix.theories, matrix.items, matrix.offsets, scores)
