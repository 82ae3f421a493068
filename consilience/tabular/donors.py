"""Tables put together from the cells of another: every new cell has a donor, a row of the table."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consilience.tabular.features import Floats, Ints
from consilience.tabular.schema import TableSchema


class Groups:
    """Members 0, 1, ... by the label of their group, for drawing a member of a wanted group."""

    def __init__(self, labels: Ints) -> None:
        self._members = np.argsort(labels, kind="stable")
        self._labels, self._starts, self._sizes = np.unique(
            labels[self._members], return_index=True, return_counts=True
        )

    def draw(self, wanted: Ints, random: np.random.Generator) -> Ints:
        """One member of each wanted group, every member of a group with the same chance; no group may be empty."""
        at = np.searchsorted(self._labels, wanted)
        return self._members[self._starts[at] + random.integers(self._sizes[at])]


def take(frame: pd.DataFrame, schema: TableSchema, donors: Ints) -> pd.DataFrame:
    """Cell (i, j) is that of row `donors[i, j]` in the schema's column j; types and missing values stay as they are."""
    return pd.DataFrame(
        {
            column.name: frame[column.name].take(rows).reset_index(drop=True)
            for column, rows in zip(schema.columns, donors.T, strict=True)
        }
    )


def with_numbers(frame: pd.DataFrame, schema: TableSchema, values: Floats, chosen: NDArray[np.bool_]) -> pd.DataFrame:
    """`frame` with new values (n, columns) in the chosen integer and float columns, in each one's decimals and range.

    NaN is missing. The columns keep their types.
    """
    made = frame.copy()
    for at in np.flatnonzero(chosen):
        column = schema.columns[at]
        if not column.empty:
            assert column.decimals is not None
            low, high = float(column.low or 0), float(column.high or 0)
            rounded = np.clip(np.round(values[:, at], column.decimals), low, high)
            made[column.name] = pd.Series(rounded).astype(frame[column.name].dtype)
    return made
