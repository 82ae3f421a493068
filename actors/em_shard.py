"""The actor that holds one shard of a large annotations table and runs the EM's pass over it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_KEYS = ("item_id", "theory", "annotator")


def names_in(path: Path) -> tuple[list[str], list[str]]:
    """Sorted annotators and theories of a Parquet annotations table, read without holding it in memory."""
    annotators: set[str] = set()
    theories: set[str] = set()
    with pq.ParquetFile(path, read_dictionary=["annotator", "theory"]) as file:
        for batch in file.iter_batches(columns=["annotator", "theory"], batch_size=1 << 20):
            annotators.update(batch.column("annotator").dictionary.to_pylist())
            theories.update(batch.column("theory").dictionary.to_pylist())
    return sorted(annotators), sorted(theories)


def read_shard(path: Path, shard: int, shards: int) -> pd.DataFrame:
    """Rows of the items that hash to `shard` of `shards`: every row of an item is in the same shard."""
    parts = []
    with pq.ParquetFile(path, read_dictionary=list(_KEYS)) as file:
        for batch in file.iter_batches(columns=[*_KEYS, "score"], batch_size=1 << 20):
            item = batch.column("item_id")
            values = item.dictionary.to_numpy(zero_copy_only=False)
            ours = pd.util.hash_array(values.astype(object)) % np.uint64(shards) == shard
            parts.append(pa.Table.from_batches([batch]).filter(pc.take(pa.array(ours), item.indices)))
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks().to_pandas(split_blocks=True, self_destruct=True)
