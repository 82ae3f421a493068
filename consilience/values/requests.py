"""What is asked of base, agents and aggregators: prompts in words, before any tokeniser, kept in a file by batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from consilience.files import atomic_path
from consilience.values.context import Data, Pieces

_PIECES = pa.list_(pa.struct([("text", pa.string()), ("data", pa.bool_())]))
_COLUMNS = pa.schema([*((name, pa.string()) for name in ("question_id", "system", "adapter")), ("pieces", _PIECES)])


@dataclass(frozen=True, slots=True)
class Request:
    """One answer that is wanted.

    Attributes:
        system: the method that it is an answer of; with `question_id` the key.
        adapter: who is to give it: an adapter's name, or that of the base.
    """

    question_id: str
    system: str
    adapter: str
    pieces: Pieces


def write_requests(path: Path, requests: Sequence[Request], batch_size: int) -> int:
    """Write `requests`, those of one adapter and of like length together; returns the number of batches."""
    ordered = sorted(requests, key=lambda request: (request.adapter, _length(request.pieces)))
    rows = [
        {
            "question_id": request.question_id,
            "system": request.system,
            "adapter": request.adapter,
            "pieces": [_row(piece) for piece in request.pieces],
        }
        for request in ordered
    ]
    table = pa.Table.from_pylist(rows, schema=_COLUMNS)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=batch_size)
    return pq.read_metadata(path).num_row_groups


def read_requests(path: Path, batch: int) -> list[Request]:
    """Batch number `batch`, counted from 0, of what `write_requests` wrote."""
    with pq.ParquetFile(path) as file:
        rows = file.read_row_group(batch).to_pylist()
    return [
        Request(
            row["question_id"],
            row["system"],
            row["adapter"],
            tuple(Data(piece["text"]) if piece["data"] else piece["text"] for piece in row["pieces"]),
        )
        for row in rows
    ]


def part_file(parts: Path, batch: int) -> Path:
    """Where the answers to a batch lie."""
    return parts / f"{batch:08d}.parquet"


def _length(pieces: Pieces) -> int:
    return sum(len(piece.text if isinstance(piece, Data) else piece) for piece in pieces)


def _row(piece: str | Data) -> dict[str, str | bool]:
    is_data = isinstance(piece, Data)
    return {"text": piece.text if isinstance(piece, Data) else piece, "data": is_data}
