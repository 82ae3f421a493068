"""Sampling rows on Ray: Ray Data over actors that hold one model of the rows at a time."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray.data
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayTaskError

from consilience.errors import UserError
from consilience.tabular.schema import Value
from consilience.workers import WorkersConfig

# torch and transformers take seconds to import, and the driver needs neither: see the actor.
if TYPE_CHECKING:
    from consilience.tabular.adversarial import Rows
    from consilience.tabular.row_model import RowModel


@dataclass(frozen=True, slots=True)
class Draw:
    """Rows to be drawn; see `sampling.sample_rows`.

    Attributes:
        model: folder of the model.
        n: rows, at least one.
        given: column's number to the value that every row has.
        seed: the same draws the same rows.
    """

    model: Path
    n: int
    given: Mapping[int, Value]
    seed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    """Rows, and how fast they were drawn once every actor had its model."""

    rows: "Rows"
    rows_per_second: float


def sample_on_cluster(draws: Sequence[Draw], batch_size: int, workers: WorkersConfig) -> list[Sampled]:
    """`sampling.sample_rows` for each of `draws`, their batches shared by as many actors as there are workers.

    The rows are those that one process would draw: a batch's chance comes from its number. An actor changes its model
    where the next batch has another, so draws of one model are best side by side.

    Raises:
        UserError: see `sampling.sample_batch`.
    """
    draws = [replace(draw, model=draw.model.absolute()) for draw in draws]
    batches = [
        {"draw": place, "number": number}
        for place, draw in enumerate(draws)
        for number in range(-(-draw.n // batch_size))
    ]
    try:
        found = (
            ray.data.from_items(batches)
            .map_batches(
                _Sampler,
                fn_constructor_args=(draws, batch_size, workers.num_cpus),
                batch_size=1,
                compute=ActorPoolStrategy(size=min(workers.workers, len(batches))),
                num_cpus=workers.num_cpus,
                num_gpus=workers.num_gpus,
            )
            .take_all()
        )
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    found.sort(key=lambda batch: (int(batch["draw"]), int(batch["number"])))
    results = []
    for place, draw in enumerate(draws):
        mine = [batch for batch in found if batch["draw"] == place]
        seconds = sum(batch["seconds"] for batch in mine) / min(workers.workers, len(mine))
        results.append(Sampled([row for batch in mine for row in json.loads(batch["rows"])], draw.n / seconds))
    return results


class _Sampler:
    """Callable for Ray Data: draws and numbers of batches in, with them their rows as JSON out."""

    def __init__(self, draws: Sequence[Draw], batch_size: int, num_cpus: float) -> None:
        import torch

        torch.set_num_threads(max(1, int(num_cpus)))
        self._draws, self._batch_size = draws, batch_size
        self._held: tuple[Path, RowModel] | None = None

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
        from consilience.tabular.sampling import batch_sizes, sample_batch

        drawn, seconds = [], []
        for place, number in zip(batch["draw"].tolist(), batch["number"].tolist(), strict=True):
            draw = self._draws[place]
            size = batch_sizes(draw.n, self._batch_size)[number]
            model = self._model(draw.model)
            started = time.perf_counter()
            drawn.append(json.dumps(sample_batch(model, size, draw.given, (*draw.seed, number))))
            seconds.append(time.perf_counter() - started)
        return {**batch, "rows": drawn, "seconds": seconds}

    def _model(self, folder: Path) -> "RowModel":
        from consilience.tabular.row_model import RowModel

        if self._held is None or self._held[0] != folder:
            self._held = None  # two are never held at once
            self._held = folder, RowModel.load(folder)
        return self._held[1]
