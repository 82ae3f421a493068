"""The actor that holds one shard of a large annotations table and runs the EM's pass over it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from consilience.consensus.calibrated import CalibratedModel
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.outcome import outcome
from consilience.consensus.past import Past, remember
from consilience.consensus.posterior import Parameters, Profile, Shard, Statistics
from consilience.errors import UserError
from consilience.readers import explained
from consilience.table_schema import conform, write_table
from consilience.tables import ANNOTATIONS, CONSENSUS
from consilience.theories import THEORY_NAMES

Counts = npt.NDArray[np.int64]

_KEYS = ("item_id", "theory", "annotator")


def names_in(path: Path) -> tuple[list[str], list[str]]:
    """Sorted annotators and theories of a Parquet annotations table, read without holding it in memory.

    Raises:
        UserError: it cannot be read, a column is missing or of another type, or a theory is unknown. Scores and
            repeated rows are for the shards to check.
    """
    annotators: set[str] = set()
    theories: set[str] = set()
    with explained(path):
        conform(pq.read_schema(path).empty_table(), ANNOTATIONS, str(path))
    with explained(path), pq.ParquetFile(path, read_dictionary=list(_KEYS)) as file:
        for name in _KEYS:
            if not pa.types.is_dictionary(kind := file.schema_arrow.field(name).type):
                raise UserError(f"{path}: column '{name}': expected text, found {kind}")
        for batch in file.iter_batches(columns=["annotator", "theory"], batch_size=1 << 20):
            annotators.update(batch.column("annotator").dictionary.to_pylist())
            theories.update(batch.column("theory").dictionary.to_pylist())
    if unknown := theories.difference(THEORY_NAMES):
        raise UserError(f"{path}: column 'theory': expected some of {', '.join(THEORY_NAMES)}, found '{min(unknown)}'")
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
    return (
        pa.concat_tables(parts).unify_dictionaries().combine_chunks().to_pandas(split_blocks=True, self_destruct=True)
    )


@ray.remote(max_restarts=-1, max_task_retries=-1)
class EMShard:
    """Holds a shard of the scores. Its methods repeat safely, so a restarted shard goes on where the EM is."""

    def __init__(
        self,
        path: Path,
        shard: int,
        shards: int,
        annotators: Sequence[str],
        theories: Sequence[str],
        gold: pd.DataFrame | None,
    ) -> None:
        self._slice = (path, shard, shards)
        self._names = (annotators, theories)
        self._gold = gold
        self._held: Shard | None = None

    @property
    def _shard(self) -> Shard:
        if self._held is None:
            self._held = Shard(ScoreMatrix.from_frame(read_shard(*self._slice), *self._names), self._gold)
        return self._held

    def profile(self) -> Profile:
        """Counts and ranges of this shard's scores."""
        return self._shard.profile()

    def step(self, parameters: Parameters | None) -> Statistics:
        """One pass of the EM over this shard; None is the start."""
        return self._shard.step(parameters)

    def outcome(
        self, parameters: Parameters, calibrated: CalibratedModel, tau: float, part: Path
    ) -> tuple[Counts, Counts]:
        """Write the consensus of this shard's tasks to `part`; returns the counts against the EM and the mean."""
        found = outcome(self._shard.matrix, self._shard.posterior(parameters), calibrated, tau)
        write_table(pa.Table.from_pandas(found.table, preserve_index=False), part, CONSENSUS)
        return found.against_em, found.against_mean

    def sample(self, tasks: int) -> ScoreMatrix:
        """Up to `tasks` tasks of this shard, evenly spaced."""
        matrix = self._shard.matrix
        found = matrix.scores.shape[1]
        return matrix.take(np.unique(np.linspace(0, found - 1, min(tasks, found)).astype(np.int64)))

    def past(self, parameters: Parameters, edges: npt.NDArray[np.float64]) -> Past:
        """What an update needs of this shard's tasks; see `consilience.consensus.past`."""
        return remember(self._shard, parameters, edges)

    def size(self) -> tuple[int, int]:
        """Distinct items in this shard, which no other shard has, and tasks."""
        items = self._shard.matrix.items
        return len(set(items)), len(items)
