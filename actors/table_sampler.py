"""Sampling rows on Ray: Ray Data over actors that each hold a model of the rows."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
import torch
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayTaskError

from consilience.errors import UserError
from consilience.tabular.adversarial import Rows
from consilience.tabular.row_model import RowModel
from consilience.tabular.sampling import batch_sizes, sample_batch
from consilience.tabular.schema import Value
from consilience.workers import WorkersConfig


@dataclass(frozen=True, slots=True)
class Sampled:
    """Rows, and how fast they were drawn once every actor had its model."""

    rows: Rows
    rows_per_second: float


def sample_on_cluster(
    model: Path, n: int, given: Mapping[int, Value], seed: Sequence[int], batch_size: int, workers: WorkersConfig
) -> Sampled:
    """`sampling.sample_rows` of the model in a folder, its batches shared by as many actors as there are workers.

    The rows are those that one process would draw: a batch's chance comes from its number.

    Raises:
        UserError: see `sample_batch`.
    """
    sizes = batch_sizes(n, batch_size)
    actors = min(workers.workers, len(sizes))
    batches = ray.data.from_items([{"number": number, "size": size} for number, size in enumerate(sizes)])
    try:
        found = batches.map_batches(
            _Sampler,
            fn_constructor_args=(model.absolute(), dict(given), tuple(seed), workers.num_cpus),
            batch_size=1,
            compute=ActorPoolStrategy(size=actors),
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus,
        ).take_all()
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    found.sort(key=lambda batch: int(batch["number"]))
    rows = [row for batch in found for row in json.loads(batch["rows"])]
    return Sampled(rows, n / (sum(batch["seconds"] for batch in found) / actors))


class _Sampler:
    """Callable for Ray Data: numbers and sizes of batches in, their rows as JSON out."""

    def __init__(self, model: Path, given: Mapping[int, Value], seed: tuple[int, ...], num_cpus: float) -> None:
        torch.set_num_threads(max(1, int(num_cpus)))
        self._model, self._given, self._seed = RowModel.load(model), given, seed

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
        drawn, seconds = [], []
        for number, size in zip(batch["number"], batch["size"], strict=True):
            started = time.perf_counter()
            rows = sample_batch(self._model, int(size), self._given, (*self._seed, int(number)))
            drawn.append(json.dumps(rows))
            seconds.append(time.perf_counter() - started)
        return {"number": batch["number"], "rows": drawn, "seconds": seconds}
