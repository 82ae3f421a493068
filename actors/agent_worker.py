"""Training and hearing moral agents on Ray: one training per value, side by side where the cluster has room."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import ray

from actors.ppo_worker import train_ppo
from consilience.ppo.rewards import Reward
from consilience.ppo.settings import PPOWorkersConfig
from consilience.values.agent_training import AgentPlan, Heard, build_trainer, hear


@ray.remote(num_cpus=0, max_retries=0)
def train_agent(
    plan: AgentPlan, questions: Sequence[str], reward: Reward, workers: PPOWorkersConfig, storage: Path, name: str
) -> Path:
    """Train one agent by a TorchTrainer of its own; a task, so that several run side by side. See `train_ppo`.

    Returns:
        folder of the last checkpoint.

    Raises:
        UserError: the reward failed, or the settings are wrong; the last checkpoint is kept.
    """
    return train_ppo(partial(build_trainer, plan, questions, reward), workers, storage, name).checkpoint


@ray.remote(max_calls=1)
def hear_agents(
    plan: AgentPlan, questions: Sequence[str], adapters: Mapping[str, Path | None], seed: int
) -> dict[str, Heard]:
    """`hear` one after another, in a process of its own, whose memory is given back."""
    return {name: hear(plan, questions, adapter, seed) for name, adapter in adapters.items()}
