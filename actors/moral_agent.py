"""Actors that host agents for callers who ask."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from consilience.values.agents import open_agents
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
    return {name: remote.remote(replace(saved, adapters={name: place})) for name, place in saved.adapters.items()}
