"""A user's file of dilemmas, made into the `dilemmas` table: bad rows are set aside and the run goes on."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from consilience.datasets import aita
from consilience.datasets.fields import name_field, text_field
from consilience.errors import UserError
from consilience.files import atomic_path
from consilience.readers import RowError, read_rows
from consilience.table_schema import TableSchema, conform, required
from consilience.tables import DILEMMAS, REJECTED

_CHUNK = 4_096
_PARTS = 64

Row = tuple[int, dict[str, Any] | RowError]
Item = tuple[str, str, str, str | None]
Refused = tuple[int, str]


@dataclass(frozen=True, slots=True)
class DilemmaCounts:
    """Rows that became items, and rows set aside."""

    items: int
    rejected: int


def prepare_dilemmas(source: Path, out: Path, rejected: Path) -> DilemmaCounts:
    """Stream `source` into `out` (table `dilemmas`) and its bad rows into `rejected` (row, reason; perhaps none).

    `source` is JSONL, CSV, TSV or Parquet with columns `item_id`, `text` and perhaps `source` (default: the file's
    name) and `group`, or a dump of AITA posts (`consilience.datasets.aita`). Numbers as ids become text. A row is bad
    if it is malformed, its id or text is missing or of the wrong type, or an earlier row has its id. Memory hardly
    grows with the file, but for 8 bytes for each id that repeats: digests of the ids are kept on disk beside `out`, 16
    bytes each, and a file in which one repeats is read again. (Two of ten million ids are mistaken for one another with
    probability 3e-6.)

    Raises:
        UserError: no such file, an unknown ending, not UTF-8, a missing column, or no usable row. Neither file is
            written then.
    """
    with atomic_path(out) as items_path, atomic_path(rejected) as rejected_path, ExitStack() as files:
        ids = _Ids([files.enter_context(TemporaryFile(dir=out.parent)) for _ in range(_PARTS)])
        counts = _write(source, items_path, rejected_path, np.empty(0, dtype=np.uint64), ids)
        if len(repeats := ids.repeats()):
            counts = _write(source, items_path, rejected_path, repeats)
    return counts


def _write(
    source: Path, out: Path, rejected: Path, repeats: npt.NDArray[np.uint64], ids: "_Ids | None" = None
) -> DilemmaCounts:
    """One pass over `source`; rows in `repeats` are bad, and the ids of good rows are noted in `ids`."""
    rows = read_rows(source)
    chunks = iter(lambda: list(islice(rows, _CHUNK)), [])
    first = next(chunks, [])
    read_item = _choose_reader(first, source)
    items, bad, reason = 0, 0, ""
    with (
        pq.ParquetWriter(out, DILEMMAS.arrow, compression="zstd") as items_file,
        pq.ParquetWriter(rejected, REJECTED.arrow, compression="zstd") as rejected_file,
    ):
        for chunk in chain([first], chunks):
            numbers, accepted, refused = _sort_rows(chunk, read_item, repeats)
            if accepted:
                items_file.write_table(_table(accepted, DILEMMAS, source))
            if refused:
                rejected_file.write_table(_table(refused, REJECTED, source))
                reason = reason or "row {}: {}".format(*refused[0])
            if ids is not None:
                ids.add(numbers, [item[0] for item in accepted])
            items += len(accepted)
            bad += len(refused)
    if not items:
        raise UserError(f"{source}: no usable row; {reason}")
    return DilemmaCounts(items, bad)


def _choose_reader(rows: Sequence[Row], source: Path) -> Callable[[int, dict[str, Any]], Item]:
    """How a row of this file becomes an item, by the columns of its first rows."""
    if not rows:
        raise UserError(f"{source}: no rows; expected a dilemmas table with columns {', '.join(required(DILEMMAS))}")
    columns = {name for _, row in rows if not isinstance(row, RowError) for name in row}
    if aita.is_aita(columns):
        return lambda number, row: (*aita.read_post(number, row), aita.SOURCE, None)
    for name in required(DILEMMAS):
        if columns and name not in columns:
            raise UserError(
                f"{source}: missing column '{name}'; found columns: {', '.join(sorted(columns))}; expected item_id and "
                "text, or title, body, and verdict or is_asshole of an AITA dump"
            )
    return lambda number, row: _plain_item(row, source.name)


def _plain_item(row: dict[str, Any], default_source: str) -> Item:
    item = name_field(row, "item_id")
    if item is None:
        raise RowError("column 'item_id': expected a value, found none")
    return item, text_field(row, "text"), name_field(row, "source") or default_source, name_field(row, "group")


def _sort_rows(
    chunk: Sequence[Row], read_item: Callable[[int, dict[str, Any]], Item], repeats: npt.NDArray[np.uint64]
) -> tuple[list[int], list[Item], list[Refused]]:
    """The numbers of good rows, their items, and the bad rows."""
    numbers: list[int] = []
    accepted: list[Item] = []
    refused: list[Refused] = []
    repeated = set(repeats[np.searchsorted(repeats, chunk[0][0]) : np.searchsorted(repeats, chunk[-1][0], "right")])
    for number, row in chunk:
        try:
            if isinstance(row, RowError):
                raise row
            item = read_item(number, row)
            if number in repeated:
                raise RowError(f"column 'item_id': {item[0]!r} is an earlier row's id")
        except RowError as error:
            refused.append((number, str(error)))
        else:
            numbers.append(number)
            accepted.append(item)
    return numbers, accepted, refused


def _table(rows: Sequence[tuple[Any, ...]], schema: TableSchema, where: Path) -> pa.Table:
    columns = [list(values) for values in zip(*rows, strict=True)]
    return conform(pa.table(columns, schema=schema.arrow), schema, str(where))


class _Ids:
    """Ids with their rows, in files by their digests: a repeated id is in one file with the first."""

    def __init__(self, files: Sequence[IO[bytes]]) -> None:
        self._files = files

    def add(self, rows: Sequence[int], ids: Sequence[str]) -> None:
        """Note n ids and the numbers of their rows, which only grow."""
        digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in ids)
        noted = np.stack([np.frombuffer(digests, dtype=np.uint64), np.array(rows, dtype=np.uint64)], axis=1)
        parts = noted[:, 0] % len(self._files)
        for part, file in enumerate(self._files):
            file.write(noted[parts == part].tobytes())

    def repeats(self) -> npt.NDArray[np.uint64]:
        """The numbers of all rows whose id an earlier row has, in order."""
        found = []
        for file in self._files:
            file.seek(0)
            digests, rows = np.frombuffer(file.read(), dtype=np.uint64).reshape(-1, 2).T
            order = np.argsort(digests, kind="stable")
            found.append(rows[order[1:][digests[order[1:]] == digests[order[:-1]]]])
        return np.sort(np.concatenate(found))
