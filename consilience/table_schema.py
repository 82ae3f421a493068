"""A table's schema: columns with their types, ranges and key, checked whenever a file is read or written.

Parquet is written; JSONL and CSV are accepted as input. Empty and null are missing; NaN and infinities are errors. Rows
are counted from 1, the first row of data.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from consilience.errors import UserError
from consilience.files import atomic_path
from consilience.readers import read_batches


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `optional` may be absent from a file, `nullable` may hold missing values."""

    name: str
    type: pa.DataType
    optional: bool = False
    nullable: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A named table: its columns and the columns that together identify a row."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def arrow(self) -> pa.Schema:
        """All columns, the optional ones included, as an Arrow schema."""
        return pa.schema([(column.name, column.type) for column in self.columns])


text = partial(Column, type=pa.string())
number = partial(Column, type=pa.float64())
share = partial(Column, type=pa.float64(), low=0.0, high=1.0)
correlation = partial(Column, type=pa.float64(), low=-1.0, high=1.0, nullable=True)
count = partial(Column, type=pa.int64(), low=0)
flag = partial(Column, type=pa.bool_())


def maybe(column: Column) -> Column:
    """`column`, which may be absent and may hold missing values."""
    return replace(column, optional=True, nullable=True)


def read_table(path: Path, schema: TableSchema) -> pa.Table:
    """Read and check a whole table (Parquet, JSONL or CSV, the last two also gzipped).

    Raises:
        UserError: no such file, not UTF-8 or malformed, a missing column, a value of the wrong type or outside its
            range, an unknown name, a duplicate key, or no rows at all.
    """
    parts = [
        conform(batch, schema, str(path), first_row) for first_row, batch in read_batches(path, column_names(schema))
    ]
    table = pa.concat_tables(parts, promote_options="default") if parts else None
    if table is None or table.num_rows == 0:
        raise UserError(f"{path}: no rows; expected table '{schema.name}' with columns {', '.join(required(schema))}")
    if any(part.num_columns < table.num_columns for part in parts):
        table = conform(table, schema, str(path))
    check_key(table, schema, str(path))
    return table


def write_table(table: pa.Table, path: Path, schema: TableSchema) -> None:
    """Check `table` and write it as Parquet, atomically: `path` holds the old file or the new one, whole."""
    table = conform(table, schema, str(path))
    check_key(table, schema, str(path))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def column_names(schema: TableSchema) -> list[str]:
    """All columns, the optional ones included."""
    return [column.name for column in schema.columns]


def required(schema: TableSchema) -> list[str]:
    """The columns that a file must have."""
    return [column.name for column in schema.columns if not column.optional]


def conform(table: pa.Table, schema: TableSchema, where: str, first_row: int = 1) -> pa.Table:
    """`table` with exactly the schema's columns that it has, cast and checked; other columns are dropped.

    Raises:
        UserError: as `read_table`, but for duplicates; `where` and the row number are in the message.
    """
    names: list[str] = []
    columns: list[pa.ChunkedArray] = []
    for column in schema.columns:
        if column.name not in table.column_names:
            if column.optional:
                continue
            found = ", ".join(table.column_names) or "none"
            raise UserError(f"{where}: missing column '{column.name}' of table '{schema.name}'; found columns: {found}")
        names.append(column.name)
        columns.append(_conform_column(table.column(column.name), column, where, first_row))
    return pa.table(columns, names=names)


def _conform_column(values: pa.ChunkedArray, column: Column, where: str, first_row: int) -> pa.ChunkedArray:
    if isinstance(values, pa.Array):
        values = pa.chunked_array([values])
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        trimmed = pc.utf8_trim_whitespace(values)
        values = pc.if_else(pc.equal(trimmed, ""), None, values if column.type == pa.string() else trimmed)
    cast = _cast(values, column, where, first_row)

    def refuse(bad: pa.ChunkedArray, expected: str) -> None:
        row = pc.index(bad, True).as_py()
        if row >= 0:
            raise UserError(
                f"{where}: row {first_row + row}, column '{column.name}': {expected}, found {cast[row].as_py()!r}"
            )

    if not column.nullable:
        refuse(pc.is_null(cast), "expected a value")
    if column.type == pa.float64():
        refuse(
            pc.fill_null(pc.invert(pc.is_finite(cast)), False), "expected a finite number (leave it empty if missing)"
        )
    for limit, beyond in ((column.low, pc.less), (column.high, pc.greater)):
        if limit is not None:
            limits = f"of at least {column.low:g}" if column.high is None else f"from {column.low:g} to {column.high:g}"
            outside = beyond(cast, pa.scalar(limit).cast(column.type))
            refuse(pc.fill_null(outside, False), f"expected a number {limits}")
    if column.choices is not None:
        known = pc.or_(pc.is_null(cast), pc.is_in(cast, pa.array(column.choices)))
        refuse(pc.invert(known), f"expected one of {', '.join(column.choices)}")
    return cast


def _cast(values: pa.ChunkedArray, column: Column, where: str, first_row: int) -> pa.ChunkedArray:
    try:
        return values.cast(column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        kind = {"double": "a number", "int64": "a whole number", "bool": "true or false"}.get(str(column.type), "text")
        for row, value in enumerate(values):
            try:
                if value.is_valid:
                    value.cast(column.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                raise UserError(
                    f"{where}: row {first_row + row}, column '{column.name}': expected {kind}, found {value.as_py()!r}"
                ) from None
        raise UserError(f"{where}: column '{column.name}': expected {kind}, found {values.type}") from None


def check_key(table: pa.Table, schema: TableSchema, where: str) -> None:
    """Raise UserError naming the first row whose key has been seen before."""
    key = [name for name in schema.key if name in table.column_names]
    codes = [table.column(name).combine_chunks().dictionary_encode(null_encoding="encode") for name in key]
    combined = np.zeros(table.num_rows, dtype=np.int64)
    for code in codes:
        combined = combined * len(code.dictionary) + code.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(combined, kind="stable")
    repeats = order[1:][combined[order[1:]] == combined[order[:-1]]]
    if len(repeats):
        row = int(repeats.min())
        first = int(np.flatnonzero(combined == combined[row])[0])
        shown = ", ".join(f"{name}={table.column(name)[row].as_py()!r}" for name in key)
        raise UserError(
            f"{where}: row {row + 1} repeats row {first + 1} ({shown}); expected one row per {' x '.join(key)}"
        )


def iterate_parquet(path: Path, columns: list[str] | None = None, rows: int = 65_536) -> Iterator[pa.Table]:
    """Batches of one of our own Parquet files, without holding it all in memory."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=rows, columns=columns):
            yield pa.Table.from_batches([batch])
