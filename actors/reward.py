"""The rewards of all values in an actor of their own: trainers on any node ask it for scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from consilience.ppo.rewards import Reward


class RewardActor:
    """Hosts a reward per value; `start_rewards` makes an actor of it."""

    def __init__(self, loaders: Mapping[str, Callable[[], Reward]]) -> None:
        """
        Args:
            loaders: value to what loads its reward; each is called once, when it is first needed.
        """
        self._loaders = loaders
        self._rewards: dict[str, Reward] = {}

    def load(self) -> dict[str, bool]:
        """Load all rewards; value to whether its use was forced, though it is no better than a baseline.

        Raises:
            UserError: a reward cannot be had.
        """
        return {value: bool(getattr(self._reward(value), "forced", False)) for value in self._loaders}

    def score(self, value: str, texts: list[str]) -> Sequence[float]:
        """What the reward of `value` returns for `texts`, unchecked."""
        return self._reward(value)(texts)

    def _reward(self, value: str) -> Reward:
        if value not in self._rewards:
            self._rewards[value] = self._loaders[value]()
        return self._rewards[value]


def start_rewards(loaders: Mapping[str, Callable[[], Reward]], num_gpus: float = 0) -> Any:
    """Start a `RewardActor`. Scoring changes nothing, so a call may be repeated after the actor was restarted."""
    remote = ray.remote(RewardActor).options(num_cpus=0, num_gpus=num_gpus, max_restarts=-1, max_task_retries=-1)
    return remote.remote(loaders)


class RemoteReward:
    """A reward that is computed in a `RewardActor`; what goes wrong there is raised here as itself."""

    def __init__(self, actor: Any, value: str) -> None:
        self._actor = actor
        self.__name__ = value

    def __call__(self, texts: list[str]) -> Sequence[float]:
        try:
            return ray.get(self._actor.score.remote(self.__name__, texts))
        except RayTaskError as error:
            raise error.cause from None
