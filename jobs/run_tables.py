"""Tables of a run folder, each in the file that bears its schema's name."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from consilience.runs import Run
from consilience.table_schema import TableSchema, write_table

if TYPE_CHECKING:
    import pandas as pd


def write_rows(rows: Sequence[Mapping[str, Any]], run: Run, schema: TableSchema) -> None:
    """Write `rows`; what one of them lacks is missing."""
    write_table(pa.Table.from_pylist(rows, schema=schema.arrow), run / f"{schema.name}.parquet", schema)


def write_frame(frame: "pd.DataFrame", run: Run, schema: TableSchema) -> None:
    """Write `frame` without its index."""
    write_table(pa.Table.from_pandas(frame, preserve_index=False), run / f"{schema.name}.parquet", schema)
