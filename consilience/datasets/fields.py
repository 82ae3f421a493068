"""Single values of a row that a loader reads by itself, checked."""

import math
from typing import Any

import pyarrow as pa

from consilience.readers import RowError


def text_field(row: dict[str, Any], column: str) -> str:
    """A text that must be there.

    Raises:
        RowError: it is missing, blank or not text.
    """
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise RowError(f"column '{column}': expected a value, found none")
    if not isinstance(value, str):
        raise RowError(f"column '{column}': expected text, found {shown(value)}")
    return value


def name_field(row: dict[str, Any], column: str) -> str | None:
    """An id or a name; a number becomes its text, as when a whole table is read. None where missing or blank.

    Raises:
        RowError: neither text nor a finite number.
    """
    value = row.get(column)
    if isinstance(value, str):
        return value if value.strip() else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"column '{column}': expected text or a number, found {shown(value)}")
    return str(value) if isinstance(value, int) else str(pa.scalar(value).cast(pa.string()))


def shown(value: object) -> str:
    """`value` for a message, cut to a readable length."""
    return repr(value)[:40]
