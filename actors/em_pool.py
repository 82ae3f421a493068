"""All tasks of an annotations table, ready for the passes of a consensus: in this process, or over shard actors."""

from collections.abc import Callable
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from actors.cluster import connect, gather
from actors.em_shard import EMShard, names_in
from consilience.consensus.baselines import mean
from consilience.consensus.calibrated import CalibratedModel
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.model import ConsensusModel
from consilience.consensus.outcome import outcome
from consilience.consensus.past import Past, quintiles, remember
from consilience.consensus.posterior import Parameters, Profile, Shard, Statistics
from consilience.errors import UserError
from consilience.files import atomic_path
from consilience.table_schema import iterate_parquet, read_table, write_table
from consilience.tables import ANNOTATIONS, CONSENSUS

SAMPLE = 20_000
"""Tasks on which agreement, intervals and influence are measured where the table is too large for one process."""


class OneShard:
    """The whole table in this process."""

    def __init__(self, annotations: Path, gold: pd.DataFrame | None) -> None:
        self._shard = Shard(ScoreMatrix.from_frame(read_table(annotations, ANNOTATIONS).to_pandas()), gold)
        matrix = self._shard.matrix
        self.annotators, self.theories = matrix.annotators, matrix.theories
        self.items, self.tasks = len(set(matrix.items)), len(matrix.items)
        self.step, self.profile = self._shard.step, self._shard.profile

    def outcome(self, model: ConsensusModel | None, calibrated: CalibratedModel, tau: float, out: Path) -> Any:
        """Write the consensus of all tasks to `out`; returns the confusion counts against the EM and the mean."""
        matrix = self._shard.matrix
        gamma = mean(matrix) if model is None else self._shard.posterior(model.parameters_of(matrix.theories))
        found = outcome(matrix, gamma, calibrated, tau)
        write_table(pa.Table.from_pandas(found.table, preserve_index=False), out, CONSENSUS)
        return found.against_em, found.against_mean

    def past(self, parameters: Parameters) -> Past:
        """What an update needs of the tasks; see `consilience.consensus.past`."""
        return remember(self._shard, parameters, quintiles(self._shard.matrix))

    def sample(self) -> ScoreMatrix:
        """All tasks."""
        return self._shard.matrix


class Shards:
    """The table spread by item over shard actors; the driver sees a few kilobytes per pass."""

    def __init__(self, annotations: Path, gold: pd.DataFrame | None, shards: int | None) -> None:
        connect()
        self.annotators, self.theories = names_in(annotations)
        count = shards or max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        where = annotations.absolute()
        self._actors = [
            EMShard.remote(  # type: ignore[attr-defined]
                where, shard, count, self.annotators, self.theories, gold
            )
            for shard in range(count)
        ]
        sizes = self._all(lambda actor: actor.size.remote())
        self.items, self.tasks = (sum(column) for column in zip(*sizes, strict=True))

    def _all(self, call: Callable[[Any], Any]) -> list[Any]:
        return gather([call(actor) for actor in self._actors])

    def step(self, parameters: Parameters | None) -> Statistics:
        """One pass over all shards; see `Shard.step`."""
        return reduce(add, self._all(lambda actor: actor.step.remote(parameters)))

    def profile(self) -> Profile:
        """Counts and ranges of all scores."""
        return reduce(add, self._all(lambda actor: actor.profile.remote()))

    def outcome(self, model: ConsensusModel | None, calibrated: CalibratedModel, tau: float, out: Path) -> Any:
        """As `OneShard.outcome`; every shard writes its part."""
        if model is None:
            raise UserError("two annotators: nothing to weigh; raise shard_above to have their mean")
        parts = [out.with_name(f".consensus-{shard}.parquet").absolute() for shard in range(len(self._actors))]
        counts = gather(
            [
                actor.outcome.remote(model.parameters, calibrated, tau, part)
                for actor, part in zip(self._actors, parts, strict=True)
            ]
        )
        with (
            atomic_path(out) as temporary,
            pq.ParquetWriter(temporary, pq.read_schema(parts[0]), compression="zstd") as file,
        ):
            for part in parts:
                for table in iterate_parquet(part):
                    file.write_table(table)
                part.unlink()
        return tuple(reduce(add, column) for column in zip(*counts, strict=True))

    def past(self, parameters: Parameters) -> Past:
        """As `OneShard.past`, the quintiles from the sample."""
        edges = quintiles(self.sample())
        return reduce(add, self._all(lambda actor: actor.past.remote(parameters, edges)))

    def sample(self) -> ScoreMatrix:
        """Evenly spaced tasks of every shard, `SAMPLE` of them at most."""
        parts = self._all(lambda actor: actor.sample.remote(SAMPLE // len(self._actors)))
        theories = [theory for part in parts for theory in np.repeat(part.theories, np.diff(part.offsets))]
        items = np.concatenate([part.items for part in parts])
        scores = np.concatenate([part.scores for part in parts], axis=1)
        order = np.argsort(items.astype(str), kind="stable")
        return ScoreMatrix.from_arrays(scores[:, order], self.annotators, items[order], [theories[i] for i in order])
