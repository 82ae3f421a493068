"""Actors that host agents: one for callers who ask, one for Ray Data, which streams all questions through a pool."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from consilience.tables import ANSWERS, write_table
from consilience.values.agents import Agents, open_agents
from consilience.values.answer_settings import AnswerConfig
from consilience.values.saved import SavedAdapters


class MoralAgent:
    """Hosts one agent or several on one base. Answers change nothing, so a call may be repeated after a restart.

    `host` makes actors of it.
    """

    def __init__(self, *saved: SavedAdapters) -> None:
        self._agents = open_agents(*saved)

    def answer(self, questions: Sequence[str], names: Sequence[str], config: AnswerConfig) -> list[str]:
        """See `Agents.answer`."""
        return self._agents.answer(questions, names, config)


def host(saved: SavedAdapters, apart: bool, num_cpus: float = 1, num_gpus: float = 0) -> dict[str, Any]:
    """Start actors for the agents of a run folder.

    Args:
        apart: an actor, and so a base and a GPU, for every agent; else all share one.
        num_cpus, num_gpus: of each actor.

    Returns:
        agent to the actor that hosts it.
    """
    remote = ray.remote(MoralAgent).options(num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=-1, max_task_retries=-1)
    if not apart:
        return dict.fromkeys(saved.adapters, remote.remote(saved))
    alone = {name: {name: place} for name, place in saved.adapters.items()}
    return {
        name: remote.remote(SavedAdapters(saved.base, saved.base_digest, adapters, saved.about))
        for name, adapters in alone.items()
    }


class Answerer:
    """Callable for Ray Data: numbers of batches in, for each of them a row with how many answers were given and reused.

    Batch k is the rows k * batch_size and on of the questions table. All agents answer it, and their answers go to disk
    as one part, whole or not at all; a part that is there is not made again, so a batch may be retried by Ray at any
    point and a job may be killed and started again.
    """

    def __init__(
        self, saved: SavedAdapters, questions: Path, batch_size: int, parts: Path, config: AnswerConfig
    ) -> None:
        table = pq.read_table(questions, columns=["question_id", "text"])
        self._ids, self._texts = (table.column(name).to_pylist() for name in ("question_id", "text"))
        self._batch_size, self._parts, self._config = batch_size, parts, config
        self._saved = saved
        self._agents: Agents | None = None

    def __call__(self, batches: dict[str, npt.NDArray[np.int64]]) -> Iterator[dict[str, list[int]]]:
        for number in batches["item"].tolist():
            rows = slice(number * self._batch_size, (number + 1) * self._batch_size)
            count = len(self._ids[rows]) * len(self._saved.adapters)
            part = part_file(self._parts, number)
            found = part.exists()
            if not found:
                self._answer(self._ids[rows], self._texts[rows], part)
            yield {"answered": [0 if found else count], "reused": [count if found else 0]}

    def _answer(self, ids: list[str], texts: list[str], part: Path) -> None:
        if self._agents is None:  # not needed where everything is on disk
            self._agents = open_agents(self._saved)
        names = [name for name in self._saved.adapters for _ in ids]
        replies = self._agents.answer(texts * len(self._saved.adapters), names, self._config)
        columns = {
            "question_id": ids * len(self._saved.adapters),
            "system": names,
            "text": [reply or None for reply in replies],
            "value": names,
        }
        write_table(pa.table(columns), part, ANSWERS)


def part_file(parts: Path, batch: int) -> Path:
    """Where the answers to a batch lie."""
    return parts / f"{batch:08d}.parquet"
