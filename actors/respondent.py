"""The actor that answers requests: Ray Data streams them through a pool, each with one base and all adapters."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from consilience.table_schema import write_table
from consilience.tables import ANSWERS
from consilience.values.agents import Agents, open_agents
from consilience.values.answer_settings import AnswerConfig
from consilience.values.prompts import prompt
from consilience.values.requests import part_file, read_requests
from consilience.values.saved import SavedAdapters


class Respondent:
    """Callable for Ray Data: numbers of batches in, for each of them a row with how many answers it has out.

    The answers to a batch go to disk as one part, whole or not at all; a part that is there is not made again, so a
    batch may be retried by Ray at any point and a job may be killed and started again.
    """

    def __init__(self, saved: Sequence[SavedAdapters], requests: Path, parts: Path, config: AnswerConfig) -> None:
        self._saved, self._requests, self._parts, self._config = saved, requests, parts, config
        self._agents: Agents | None = None

    def __call__(self, batches: dict[str, npt.NDArray[np.int64]]) -> Iterator[dict[str, list[int]]]:
        for number in batches["item"].tolist():
            requests = read_requests(self._requests, number)
            part = part_file(self._parts, number)
            if not part.exists():
                if self._agents is None:  # not needed where everything is on disk
                    self._agents = open_agents(*self._saved)
                room, tokeniser = self._agents.room(self._config), self._agents.model.tokeniser
                prompts = [prompt(tokeniser, request.pieces, room) for request in requests]
                replies = self._agents.reply(prompts, [request.adapter for request in requests], self._config)
                columns = {
                    "question_id": [request.question_id for request in requests],
                    "system": [request.system for request in requests],
                    "text": [reply or None for reply in replies],
                }
                write_table(pa.table(columns), part, ANSWERS)
            yield {"answers": [len(requests)]}
