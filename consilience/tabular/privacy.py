"""Whether a synthetic table gives away the rows that its generator learned from: held-out real rows are the measure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from consilience.tabular.features import Floats, codes, is_number, plain
from consilience.tabular.schema import TableSchema

COPIES_MARGIN = 0.02
CLOSEST_LIMIT = 0.9
MEMBERSHIP_MARGIN = 0.05

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Privacy:
    """Figures that a generator keeps as low as real rows it has never seen have them; NaN where not defined.

    Attributes:
        training_rows, held_out_rows: how many real rows of each kind there are.
        exact_copies: share of synthetic rows that are, in every cell, a training row.
        exact_copies_held_out: the same of held-out rows, which is chance: no generator need have fewer.
        closest: median Gower distance from a synthetic row to the nearest training row, 0 to 1.
        closest_held_out: the same from held-out rows.
        closest_ratio: the first by the second; well below 1 the synthetic rows keep too close. NaN where the second
            is 0, as when most held-out rows are copies.
        membership_auc: ROC-AUC of telling training rows from held-out rows by their distance to the nearest synthetic
            row: 0.5 nothing is given away, 1 everything.
    """

    training_rows: int
    held_out_rows: int
    exact_copies: float
    exact_copies_held_out: float
    closest: float
    closest_held_out: float
    closest_ratio: float
    membership_auc: float

    @property
    def leaks(self) -> list[str]:
        """The figures that give training rows away.

        Copies 0.02 above those among held-out rows, a ratio below 0.9, a membership AUC above 0.55; a margin is two
        standard errors of chance (binomial, Mann-Whitney) where that is wider.
        """
        seen, unseen, chance = self.training_rows, max(self.held_out_rows, 1), self.exact_copies_held_out
        copies_error = math.sqrt(chance * (1 - chance) / unseen)
        membership_error = math.sqrt((seen + unseen + 1) / (12 * seen * unseen))
        found = {
            "exact_copies": self.exact_copies > chance + max(COPIES_MARGIN, 2 * copies_error),
            "closest_ratio": self.closest_ratio < CLOSEST_LIMIT,
            "membership_auc": self.membership_auc > 0.5 + max(MEMBERSHIP_MARGIN, 2 * membership_error),
        }
        return [name for name, worse in found.items() if worse]


def privacy(train: pd.DataFrame, held_out: pd.DataFrame, synthetic: pd.DataFrame, schema: TableSchema) -> Privacy:
    """Of rows made by a generator that has seen `train` and nothing of `held_out`."""
    seen, unseen, made = (plain(table, schema) for table in (train, held_out, synthetic))
    known = (len(seen), len(unseen), _copies(made, seen), _copies(unseen, seen))
    if not len(made) or not len(unseen):
        return Privacy(*known, np.nan, np.nan, np.nan, np.nan)
    space = _Gower(schema, seen, unseen, made)
    closest = float(np.median(space.nearest(2, 0)))
    usual = float(np.median(space.nearest(1, 0)))
    near = np.concatenate([space.nearest(0, 2), space.nearest(1, 2)])
    membership = roc_auc_score(np.repeat([1, 0], [len(seen), len(unseen)]), -near)
    return Privacy(*known, closest, usual, closest / usual if usual else np.nan, float(membership))


class _Gower:
    """Gower's distance (1971) between rows of several tables: the mean over columns of each column's, 0 to 1.

    Of numbers the difference by the first table's range, at most 1; of all else 0 if they are the same, 1 if not. A
    missing value is 0 from another and 1 from any that is there.
    """

    def __init__(self, schema: TableSchema, *tables: pd.DataFrame) -> None:
        self._tables: list[list[NDArray[np.float32]]] = [[] for _ in tables]
        self._numbers = [is_number(column) for column in schema.columns]
        for column, number in zip(schema.columns, self._numbers, strict=True):
            cells = [table[column.name] for table in tables]
            values: Sequence[NDArray[Any]] = _scaled(*cells) if number else codes(*cells)
            for table, found in zip(self._tables, values, strict=True):
                table.append(np.asarray(found, dtype=np.float32))

    def nearest(self, start: int, end: int) -> Floats:
        """(n,) the distance from each row of table number `start` to the nearest of table number `end`."""
        rows = len(self._tables[start][0])
        parts = [self._to(start, end, slice(at, at + _CHUNK)).min(axis=1) for at in range(0, rows, _CHUNK)]
        return np.concatenate(parts).astype(np.float64) / len(self._numbers)

    def _to(self, start: int, end: int, rows: slice) -> NDArray[np.float32]:
        total = np.zeros((len(self._tables[start][0][rows]), len(self._tables[end][0])), dtype=np.float32)
        for number, column, others in zip(self._numbers, self._tables[start], self._tables[end], strict=True):
            from_here = column[rows, None]
            if number:
                apart = np.minimum(np.abs(from_here - others), 1)
                total += np.where(np.isnan(apart), np.isnan(from_here) != np.isnan(others), apart)
            else:
                total += from_here != others
        return total


def _scaled(*tables: pd.Series) -> list[Floats]:
    """Numbers by the range of the first table's, 1 where it has none."""
    known = tables[0].dropna()
    least, width = (known.min(), known.max() - known.min()) if len(known) else (0.0, 0.0)
    return [((table - least) / (width or 1.0)).to_numpy(dtype=np.float64) for table in tables]


def _copies(rows: pd.DataFrame, of: pd.DataFrame) -> float:
    """Share of rows that stand among the rows of another plain table."""
    if not len(rows):
        return np.nan
    theirs, mine = (pd.util.hash_pandas_object(table, index=False) for table in (of, rows))
    return float(mine.isin(theirs).mean())
