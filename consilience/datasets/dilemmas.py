"""A user's file of dilemmas, made into the `dilemmas` table: bad rows are set aside and the run goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any

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
    if it is malformed, its id or text is missing or of the wrong type, or an earlier row has its id. Memory grows by 8
    bytes per item only: ids are compared by 64-bit digests (two of ten million coincide with probability 3e-6).

    Raises:
        UserError: no such file, an unknown ending, not UTF-8, a missing column, or no usable row. Neither file is
            written then.
    """
    rows = read_rows(source)
    chunks = iter(lambda: list(islice(rows, _CHUNK)), [])
    first = next(chunks, [])
    read_item = _choose_reader(first, source)
    seen = _SeenIds()
    items, bad, reason = 0, 0, ""
    with (
        atomic_path(out) as items_path,
        pq.ParquetWriter(items_path, DILEMMAS.arrow, compression="zstd") as items_file,
        atomic_path(rejected) as rejected_path,
        pq.ParquetWriter(rejected_path, REJECTED.arrow, compression="zstd") as rejected_file,
    ):
        for chunk in chain([first], chunks):
            accepted, refused = _sort_rows(chunk, read_item, seen)
            if accepted:
                items_file.write_table(_table(accepted, DILEMMAS, out))
            if refused:
                rejected_file.write_table(_table(refused, REJECTED, rejected))
                reason = reason or "row {}: {}".format(*refused[0])
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
    chunk: Sequence[Row], read_item: Callable[[int, dict[str, Any]], Item], seen: "_SeenIds"
) -> tuple[list[Item], list[Refused]]:
    items: list[tuple[int, Item]] = []
    refused: list[Refused] = []
    for number, row in chunk:
        try:
            if isinstance(row, RowError):
                raise row
            items.append((number, read_item(number, row)))
        except RowError as error:
            refused.append((number, str(error)))
    new = seen.add([item[0] for _, item in items])
    accepted = [item for (_, item), is_new in zip(items, new, strict=True) if is_new]
    refused += [
        (number, f"column 'item_id': {item[0]!r} is an earlier row's id")
        for (number, item), is_new in zip(items, new, strict=True)
        if not is_new
    ]
    return accepted, sorted(refused)


def _table(rows: Sequence[tuple[Any, ...]], schema: TableSchema, where: Path) -> pa.Table:
    columns = [list(values) for values in zip(*rows, strict=True)]
    return conform(pa.table(columns, schema=schema.arrow), schema, str(where))


class _SeenIds:
    """The 64-bit digests of all ids so far: sorted arrays, each more than twice the next."""

    def __init__(self) -> None:
        self._runs: list[npt.NDArray[np.uint64]] = []

    def add(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(n,) whether each of n ids appears for the first time, here and ever."""
        digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in ids)
        unique, position = np.unique(np.frombuffer(digests, dtype=np.uint64), return_index=True)
        known = np.zeros(len(unique), dtype=bool)
        for run in self._runs:
            known |= run[np.minimum(np.searchsorted(run, unique), len(run) - 1)] == unique
        new = np.zeros(len(ids), dtype=bool)
        new[position[~known]] = True
        if new.any():
            self._runs.append(unique[~known])
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")
        return new
