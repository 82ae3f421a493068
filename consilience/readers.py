"""Rows from Parquet, JSONL and CSV, with their numbers: in strict batches, or one by one with bad rows set aside.

Rows are counted from 1, the first row of data; blank lines are no rows.
"""

import gzip
import json
import re
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from consilience.errors import UserError, one_line

FORMATS = (".parquet", ".jsonl", ".csv", ".tsv", ".jsonl.gz", ".csv.gz", ".tsv.gz")
_ROWS = 65_536  # a batch of Parquet or JSONL
_BLOCK = 1 << 22  # bytes of CSV; pyarrow reads up to 32 of them ahead


class RowError(Exception):
    """A row that cannot be used; the message says why."""


def read_batches(
    path: Path, wanted: Sequence[str] | None = None, header: Sequence[str] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Yield (number of the first row, counted from 1; rows). CSV values come as text, empty ones as null.

    `wanted` limits the columns that are read; those a file lacks are simply absent. `header` names the columns of a
    CSV without a header line.

    Raises:
        UserError: no such file, an unknown ending, not UTF-8, or malformed.
    """
    path = Path(path)
    kind = _kind(path)
    with explained(path):
        if kind == ".parquet":
            yield from _parquet(path, wanted)
        elif kind == ".jsonl":
            yield from _jsonl(path, wanted)
        else:
            yield from _csv(path, wanted, header)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """Yield (row number, row) in order, all columns; a malformed JSONL line or CSV row comes as a `RowError`.

    Raises:
        UserError: no such file, an unknown ending, not UTF-8, or malformed as a whole.
    """
    path = Path(path)
    kind = _kind(path)
    with explained(path):
        if kind == ".jsonl":
            for number, line in _json_lines(path):
                try:
                    yield number, _parse_json(line)
                except RowError as error:
                    yield number, error
        else:
            bad: dict[int, RowError] = {}
            batches = _parquet(path, None) if kind == ".parquet" else _csv(path, None, bad=bad)
            number = 0
            for _, batch in batches:
                for row in _dicts(batch):
                    number += 1
                    while number in bad:
                        yield number, bad.pop(number)
                        number += 1
                    yield number, row
            yield from sorted(bad.items())


def _dicts(batch: pa.Table) -> Iterator[dict[str, Any]]:
    for start in range(0, batch.num_rows, 1024):
        yield from batch.slice(start, 1024).to_pylist()


def _kind(path: Path) -> str:
    ending = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    if ending not in FORMATS:
        raise UserError(f"{path}: unknown file type; expected a name ending in {', '.join(FORMATS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return ending.removesuffix(".gz")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what reading the file `path` raises into a UserError."""
    try:
        yield
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; expected UTF-8") from None
    except pa.ArrowInvalid as error:
        message = one_line(error)[:200]
        if "straddling" in message:
            message = f"a row is longer than {_BLOCK >> 20} MiB; is a quotation mark left open?"
        raise UserError(f"{path}: malformed: {message}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _parquet(path: Path, wanted: Sequence[str] | None) -> Iterator[tuple[int, pa.Table]]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        _refuse_repeated(names, path)
        columns = None if wanted is None else [name for name in names if name in wanted]
        row = 1
        for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
            yield row, pa.Table.from_batches([batch])
            row += batch.num_rows


def _refuse_repeated(names: list[str], path: Path) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{path}: two columns are called '{repeated}'")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _json_lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    with _open(path) as lines:
        for line in lines:
            if not line.strip():
                continue
            number += 1
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{path}: row {number}: not UTF-8 text; expected UTF-8") from None


def _jsonl(path: Path, wanted: Sequence[str] | None) -> Iterator[tuple[int, pa.Table]]:
    rows: list[dict[str, Any]] = []
    first = 1
    for number, line in _json_lines(path):
        rows.append(parse_json_row(line, path, number))
        if len(rows) == _ROWS:
            yield first, _rows_to_table(rows, wanted, path, first)
            first, rows = number + 1, []
    if rows:
        yield first, _rows_to_table(rows, wanted, path, first)


def parse_json_row(line: str, path: Path, number: int) -> dict[str, Any]:
    """One JSONL line as a dict.

    Raises:
        UserError: the line is not a JSON object, or holds NaN, an infinity or half a surrogate pair.
    """
    try:
        return _parse_json(line)
    except RowError as error:
        raise UserError(f"{path}: row {number}: {error}") from None


def _parse_json(line: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise RowError(f"{constant} is not a number here; leave a missing value null")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            raise RowError("one name stands twice in an object")
        return row

    try:
        row = json.loads(line, parse_constant=refuse, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise RowError(f"not JSON: {getattr(error, 'msg', error)}") from None
    if not isinstance(row, dict):
        raise RowError(f"expected a JSON object, found {line.strip()[:40]!r}")
    if "\\ud" in line.lower():
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RowError("holds half of a surrogate pair, which is not text") from None
    return row


def _rows_to_table(rows: list[dict[str, Any]], wanted: Sequence[str] | None, path: Path, first: int) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names if wanted is None else [name for name in names if name in wanted]:
        values = [row.get(name) for row in rows]
        column = _array(values)
        if column is None:
            odd = bisect_left(range(len(values)), True, key=lambda n: _array(values[: n + 1]) is None)
            raise UserError(
                f"{path}: row {first + odd}, column '{name}': {str(values[odd])[:40]!r} is of another type than the "
                "rows before, or too large a number"
            )
        columns[name] = column
    return pa.table(columns)


def _array(values: list[Any]) -> pa.Array | None:
    """None where the values have no common type."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None


def _csv(
    path: Path,
    wanted: Sequence[str] | None,
    header: Sequence[str] | None = None,
    bad: dict[int, RowError] | None = None,
) -> Iterator[tuple[int, pa.Table]]:
    """Rows with too few or too many fields are put into `bad` by number and left out; without `bad`, refused."""
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    names = list(header) if header else _csv_header(path, delimiter)
    header_lines = 0 if header else 1
    convert = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        include_columns=None if wanted is None else [name for name in names if name in wanted],
        strings_can_be_null=True,
        null_values=["", "null"],
    )
    malformed: dict[int, RowError] = {} if bad is None else bad

    def set_aside(row: pa_csv.InvalidRow) -> str:
        malformed[row.number - header_lines] = RowError(
            f"expected {row.expected_columns} fields, found {row.actual_columns}"
        )
        return "error" if bad is None else "skip"

    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=set_aside)
    read = pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=header)
    row = 1
    try:
        with pa.input_stream(path, compression="detect") as stream:
            for batch in pa_csv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert):
                yield row, pa.Table.from_batches([batch])
                row += batch.num_rows
    except pa.ArrowInvalid as error:
        if bad is None and malformed:
            number, reason = malformed.popitem()
            raise UserError(f"{path}: row {number}: {reason}") from None
        if found := re.search(r"column #(\d+): Row #(\d+): .*UTF8", str(error)):
            column, number = int(found[1]), int(found[2]) - header_lines
            raise UserError(f"{path}: row {number}, column '{names[column]}': not UTF-8 text; expected UTF-8") from None
        raise


def _csv_header(path: Path, delimiter: str) -> list[str]:
    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=lambda row: "skip")
    read = pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK)
    with pa.input_stream(path, compression="detect") as stream:
        try:
            opened = pa_csv.open_csv(stream, parse_options=parse, read_options=read)
        except pa.ArrowInvalid as error:
            if "Empty" in str(error):
                raise UserError(f"{path}: empty file; expected a header line and rows") from None
            raise
        names: list[str] = opened.schema.names
    _refuse_repeated(names, path)
    return names
