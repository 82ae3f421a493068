"""What a table's columns may hold, read off the table: kinds, types, precision, ranges, categories."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api import types

from consilience.errors import UserError

Kind = Literal["integer", "float", "category", "boolean", "date"]
Value = str | int | float | bool | None
"""A cell: the category itself, a number, true or false, a date as ISO text, None where missing."""

_EXACT, _ROUNDED = 9, 6
"""Digits of a float column's range: at most 9 where they restore every value, else 6 and values are rounded."""

_DAY, _SECOND, _NANOSECOND = len("2026-11-22"), len("2026-11-22 10:20:30"), len("2026-11-22 10:20:30.123456789")


@dataclass(frozen=True, slots=True)
class ColumnSchema:
    """One column.

    Attributes:
        dtype: as pandas names it, so that `pandas.api.types.pandas_dtype(dtype)` gives it back.
        decimals: of numbers; values are multiples of 10^-decimals. Negative for huge floats. None for other kinds.
        low, high: smallest and largest value, for numbers and dates (ISO text); None where nothing was seen.
        categories: of kind category, those seen, in the type's own order or else sorted by their text.
        levels: of dtype category, all that the type declares, else None.
        ordered: whether those are in an order.
        missing: whether some values are missing.
    """

    name: str
    kind: Kind
    dtype: str
    missing: bool
    decimals: int | None = None
    low: int | float | str | None = None
    high: int | float | str | None = None
    categories: tuple[str | int | float | bool, ...] = ()
    levels: tuple[str | int | float | bool, ...] | None = None
    ordered: bool = False

    @property
    def empty(self) -> bool:
        """Whether every value is missing."""
        return self.low is None if self.kind in ("integer", "float", "date") else not self.categories

    @property
    def expected(self) -> str:
        """The values that a new row may have, in words: those seen, and numbers and dates between them."""
        if self.empty:
            return "a missing value, there is no other"
        if self.kind in ("category", "boolean"):
            shown = ", ".join(map(repr, self.categories[:10]))
            found = shown + (", ..." if len(self.categories) > 10 else "")
        else:
            found = f"{self.low} to {self.high}"
        return found + (" or a missing value" if self.missing else "")

    def allows(self, value: Value) -> bool:
        """Whether a new row may have it, a cell as `cell` returns it; see `expected`."""
        if value is None or self.empty:
            return value is None and (self.missing or self.empty)
        if self.kind in ("category", "boolean"):
            return value in self.categories
        return bool(self.low <= value <= self.high)  # type: ignore[operator]

    def steps(self, value: float) -> int:
        """A number in units of 10^-decimals, rounded to the nearest."""
        assert self.decimals is not None
        return int(Decimal(repr(value)).scaleb(self.decimals).to_integral_value())

    def number(self, steps: int) -> int | float:
        """The number that is so many units."""
        assert self.decimals is not None
        return steps if self.kind == "integer" else float(Decimal(steps).scaleb(-self.decimals))

    def cell(self, value: Any) -> Value:
        """The cell for one value of the column's kind, as a table or a config would hold it; None is missing.

        Raises:
            UserError: it is of another kind, or finer than the column's precision.
        """
        if value is None or (types.is_scalar(value) and pd.isna(value)):
            return None
        found: Value = value.item() if isinstance(value, np.generic) else value
        fits = True
        if self.kind in ("integer", "float"):
            fits = False
            if isinstance(found, int | float) and not isinstance(found, bool) and np.isfinite(found):
                number = self.number(self.steps(found))
                fits, found = abs(found - number) <= 1e-9 * abs(found), number
        elif self.kind == "date":
            moment = pd.to_datetime(value, utc=True, errors="coerce")
            fits = not pd.isna(moment)
            if fits:
                moment = moment.tz_localize(None)
                (found,) = _iso(pd.Series([moment]), None if self.low is None else len(str(self.low)))
                fits = bool(pd.Timestamp(found) == moment)
        if not fits:
            precision = f" of {self.decimals} decimals" if self.kind == "float" else ""
            raise UserError(f"column '{self.name}': {value!r}; expected a value of kind {self.kind}{precision}")
        return found


@dataclass(frozen=True, slots=True)
class TableSchema:
    """The columns of a table, in order, and the name of the one to be predicted, if any."""

    columns: tuple[ColumnSchema, ...]
    target: str | None = None

    @classmethod
    def of(cls, frame: pd.DataFrame, target: str | None = None) -> "TableSchema":
        """Read the schema off `frame`.

        Integers, floats, text, categories, booleans and dates are known; text that is all ISO dates is dates.

        Raises:
            UserError: no columns, no rows, a column's name is no text or there twice, the target absent, or a column
                that holds something else.
        """
        if not len(frame.columns):
            raise UserError("table: no columns; expected at least one")
        for place, name in enumerate(frame.columns):
            if not isinstance(name, str) or not name:
                raise UserError(f"table: column {place} is named {name!r}; expected a text")
        if not frame.columns.is_unique:
            raise UserError(f"table: two columns are named '{frame.columns[frame.columns.duplicated()][0]}'")
        if not len(frame):
            raise UserError("table: no rows; expected at least one")
        if target is not None and target not in frame.columns:
            raise UserError(f"target '{target}': no such column; expected one of {', '.join(frame.columns)}")
        return cls(tuple(_column(str(name), frame[name]) for name in frame.columns), target)

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def __getitem__(self, name: str) -> ColumnSchema:
        return self.columns[self.names.index(name)]

    def rows(self, frame: pd.DataFrame) -> list[list[Value]]:
        """The cells of a table of these columns, row by row; numbers rounded to their column's decimals."""
        return list(map(list, zip(*(_cells(column, frame[column.name]) for column in self.columns), strict=True)))

    def frame(self, rows: Sequence[Sequence[Value]]) -> pd.DataFrame:
        """A table of these columns with their original types from rows of cells, as `rows` gives them.

        An integer or boolean column that had no missing value takes none.
        """
        cells = list(zip(*rows, strict=True)) if rows else [()] * len(self.columns)
        return pd.DataFrame(
            {column.name: _series(column, list(values)) for column, values in zip(self.columns, cells, strict=True)}
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON's types."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "TableSchema":
        """What `to_json` wrote."""
        columns = []
        for column in found["columns"]:
            levels = column["levels"]
            sets = {
                "categories": tuple(column["categories"]),
                "levels": None if levels is None else tuple(levels),
            }
            columns.append(ColumnSchema(**{**column, **sets}))
        return cls(tuple(columns), found["target"])


def _column(name: str, values: pd.Series) -> ColumnSchema:
    missing = bool(values.isna().any())
    dtype = str(values.dtype)
    seen = values.dropna()
    if types.is_bool_dtype(values.dtype) or (len(seen) and seen.map(lambda value: isinstance(value, bool)).all()):
        return ColumnSchema(name, "boolean", dtype, missing, categories=tuple(sorted(map(bool, seen.unique()))))
    if types.is_integer_dtype(values.dtype):
        low, high = (int(seen.min()), int(seen.max())) if len(seen) else (None, None)
        return ColumnSchema(name, "integer", dtype, missing, 0, low, high)
    if types.is_float_dtype(values.dtype):
        return _float_column(name, values, missing)
    if types.is_datetime64_any_dtype(values.dtype) or _is_iso(seen):
        dates = _iso(seen)
        return ColumnSchema(name, "date", dtype, missing, low=min(dates, default=None), high=max(dates, default=None))
    levels, ordered = None, False
    if isinstance(values.dtype, pd.CategoricalDtype):
        levels, ordered, dtype = tuple(values.dtype.categories.tolist()), bool(values.dtype.ordered), "category"
    return ColumnSchema(
        name, "category", dtype, missing, categories=_categories(name, values, levels), levels=levels, ordered=ordered
    )


def _float_column(name: str, values: pd.Series, missing: bool) -> ColumnSchema:
    numbers = values.dropna().to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(np.isinf(values.to_numpy(dtype=np.float64, na_value=np.nan)))[0])
        raise UserError(f"column '{name}', row {row}: infinite; expected finite numbers")
    dtype = str(values.dtype)
    if not len(numbers):
        return ColumnSchema(name, "float", dtype, missing, 0)
    stored: Any = getattr(values.dtype, "numpy_dtype", values.dtype)
    single = np.dtype(stored).itemsize < 8
    column = ColumnSchema(name, "float", dtype, missing, _decimals(numbers, np.float32 if single else np.float64))
    low, high = (column.number(column.steps(float(bound))) for bound in (numbers.min(), numbers.max()))
    return ColumnSchema(name, "float", dtype, missing, column.decimals, low, high)


def _decimals(numbers: np.ndarray[Any, np.dtype[np.float64]], kind: type[np.floating[Any]]) -> int:
    """Fewest decimals that restore the numbers, up to rounding of their type, or those of `_ROUNDED` digits."""
    largest = float(np.abs(numbers).max())
    if (numbers == np.rint(numbers)).all() and largest < 2**53:
        return 0
    span = float(numbers.max() - numbers.min()) or largest
    whole = 1 + int(np.floor(np.log10(span)))
    tolerance = 8 * float(np.finfo(kind).eps) * np.abs(numbers)
    for decimals in range(1, _EXACT - whole + 1):
        if (np.abs(np.round(numbers, decimals) - numbers) <= tolerance).all():
            return decimals
    return _ROUNDED - whole


def _is_iso(seen: pd.Series) -> bool:
    """Whether these are texts, each a date as 2026-11-22."""
    if not len(seen) or not seen.map(lambda value: isinstance(value, str)).all():
        return False
    if not seen.str.fullmatch(r"\d{4}-\d{2}-\d{2}").all():
        return False
    return bool(pd.to_datetime(seen, format="%Y-%m-%d", errors="coerce").notna().all())


def _iso(seen: pd.Series, width: int | None = None) -> list[str]:
    """Dates as ISO texts of like width, in universal time where they have a zone: days, seconds or nanoseconds."""
    if not types.is_datetime64_any_dtype(seen.dtype):
        return [str(value) for value in seen]
    moments = seen if seen.dt.tz is None else seen.dt.tz_convert("UTC").dt.tz_localize(None)
    if width is None:
        whole = [width for width, unit in ((_DAY, "D"), (_SECOND, "s")) if (moments == moments.dt.floor(unit)).all()]
        width = min(whole, default=_NANOSECOND)
    return [moment.isoformat(sep=" ", timespec="nanoseconds")[:width] for moment in moments]


def _categories(name: str, values: pd.Series, levels: tuple[Any, ...] | None) -> tuple[str | int | float | bool, ...]:
    texts: dict[str, Any] = {}
    for row, value in enumerate(values):
        if pd.api.types.is_scalar(value) and pd.isna(value):
            continue
        if not isinstance(value, str | int | float | bool | np.generic):
            kind = type(value).__name__
            raise UserError(f"column '{name}', row {row}: a {kind}; expected text, numbers, booleans or dates")
        plain = value.item() if isinstance(value, np.generic) else value
        if (other := texts.setdefault(str(plain), plain)) != plain or type(other) is not type(plain):
            raise UserError(
                f"column '{name}', row {row}: {plain!r} beside {other!r}, which read the same; expected one type"
            )
    return tuple(v for v in levels if str(v) in texts) if levels is not None else tuple(texts[t] for t in sorted(texts))


def _cells(column: ColumnSchema, values: pd.Series) -> list[Value]:
    absent = values.isna().to_numpy()
    if column.kind == "date":
        return _fill(absent, _iso(values.dropna(), None if column.low is None else len(str(column.low))))
    if column.kind in ("integer", "float"):
        return _fill(absent, [column.number(column.steps(value)) for value in values.dropna().tolist()])
    return _fill(absent, values.dropna().tolist())


def _fill(absent: Any, cells: list[Any]) -> list[Value]:
    present = iter(cells)
    return [None if gap else next(present) for gap in absent]


def _series(column: ColumnSchema, values: list[Value]) -> pd.Series:
    if column.levels is not None:
        return pd.Series(pd.Categorical(values, categories=list(column.levels), ordered=column.ordered))
    dtype = types.pandas_dtype(column.dtype)
    if column.kind == "date" and dtype.kind == "M":
        moments = pd.Series(pd.to_datetime(pd.Series(values, dtype="str"), format="ISO8601", utc=True))
        zone = getattr(dtype, "tz", None)
        return (moments if zone is not None else moments.dt.tz_localize(None)).astype(dtype)
    return pd.Series(values, dtype="object").astype(dtype)
