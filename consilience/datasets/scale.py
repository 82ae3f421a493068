"""Any numeric scale to acceptability, 0..1, 1 = acceptable."""

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from consilience.errors import UserError
from consilience.table_schema import Column, number

HigherIs = Literal["acceptable", "wrong"]
Scale = tuple[float, float]


def scale_column(name: str, scale: Scale) -> Column:
    """A column of numbers within `scale`; blanks are missing.

    Raises:
        UserError: the scale's low end is not below its high end.
    """
    low, high = scale
    if not low < high:
        raise UserError(f"scale [{low:g}, {high:g}]: expected the low end below the high end")
    return number(name, nullable=True, low=low, high=high)


def to_acceptability(values: pa.ChunkedArray, scale: Scale, higher_is: HigherIs) -> pa.ChunkedArray:
    """Values within `scale` to 0..1, turned round where higher means wrong; nulls stay null."""
    low, high = scale
    distance = pc.subtract(values, low) if higher_is == "acceptable" else pc.subtract(high, values)
    return pc.divide(distance, high - low)
