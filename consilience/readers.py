"""Batches of rows from Parquet, JSONL and CSV, with the row number of each batch's first row."""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from consilience.errors import UserError

FORMATS = (".parquet", ".jsonl", ".csv", ".tsv", ".jsonl.gz", ".csv.gz", ".tsv.gz")
_ROWS = 65_536


def read_batches(path: Path, wanted: Sequence[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """Yield (number of the first row, counted from 1; rows). CSV values come as text, empty ones as null.

    `wanted` limits the columns that are read; those a file lacks are simply absent.

    Raises:
        UserError: no such file, an unknown ending, not UTF-8, or malformed.
    """
    path = Path(path)
    ending = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    if ending not in FORMATS:
        raise UserError(f"{path}: unknown file type; expected a name ending in {', '.join(FORMATS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    batches = {".parquet": _parquet, ".jsonl": _jsonl}.get(ending.removesuffix(".gz"), _csv)
    try:
        yield from batches(path, wanted)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start} of a line); expected UTF-8") from None
    except pa.ArrowInvalid as error:
        message = " ".join(str(error).split())
        if "UTF8" in message:
            raise UserError(f"{path}: not UTF-8 text; expected UTF-8") from None
        raise UserError(f"{path}: malformed: {message[:200]}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parquet(path: Path, wanted: Sequence[str] | None) -> Iterator[tuple[int, pa.Table]]:
    with pq.ParquetFile(path) as file:
        columns = None if wanted is None else [name for name in file.schema_arrow.names if name in wanted]
        row = 1
        for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
            yield row, pa.Table.from_batches([batch])
            row += batch.num_rows


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _jsonl(path: Path, wanted: Sequence[str] | None) -> Iterator[tuple[int, pa.Table]]:
    rows: list[dict[str, Any]] = []
    first = 1
    with _open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            rows.append(parse_json_row(line, path, number))
            if len(rows) == _ROWS:
                yield first, _rows_to_table(rows, wanted, path, first)
                first, rows = number + 1, []
    if rows:
        yield first, _rows_to_table(rows, wanted, path, first)


def parse_json_row(line: str, path: Path, number: int) -> dict[str, Any]:
    """One JSONL line as a dict.

    Raises:
        UserError: the line is not a JSON object, or holds NaN or an infinity.
    """

    def refuse(constant: str) -> None:
        raise UserError(f"{path}: row {number}: {constant} is not a number here; leave a missing value null")

    try:
        row = json.loads(line, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: row {number}: not JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}: row {number}: expected a JSON object, found {line.strip()[:40]!r}")
    return row


def _rows_to_table(rows: list[dict[str, Any]], wanted: Sequence[str] | None, path: Path, first: int) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names if wanted is None else [name for name in names if name in wanted]:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            kinds = [type(value) for value in values]
            odd = next(i for i, kind in enumerate(kinds) if kind not in (kinds[0], type(None)))
            raise UserError(
                f"{path}: row {first + odd}, column '{name}': {values[odd]!r} is of another type than the rows before"
            ) from None
    return pa.table(columns)


def _csv(path: Path, wanted: Sequence[str] | None) -> Iterator[tuple[int, pa.Table]]:
    parse = pa_csv.ParseOptions(delimiter="\t" if ".tsv" in path.suffixes else ",", newlines_in_values=True)
    with pa.input_stream(path, compression="detect") as stream:
        try:
            header = pa_csv.open_csv(stream, parse_options=parse, read_options=pa_csv.ReadOptions(use_threads=False))
        except pa.ArrowInvalid as error:
            if "Empty" in str(error):
                raise UserError(f"{path}: empty file; expected a header line and rows") from None
            raise
        names = header.schema.names
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{path}: two columns are called '{repeated}'")
    convert = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        include_columns=None if wanted is None else [name for name in names if name in wanted],
        strings_can_be_null=True,
        null_values=["", "null"],
    )
    read = pa_csv.ReadOptions(use_threads=False, block_size=1 << 24)
    row = 1
    with pa.input_stream(path, compression="detect") as stream:
        for batch in pa_csv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert):
            yield row, pa.Table.from_batches([batch])
            row += batch.num_rows
