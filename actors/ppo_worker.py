"""PPO on one or several workers: Ray Train around `consilience.ppo`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.training import note_progress, report, resume, run_workers
from consilience.ppo.settings import PPOWorkersConfig

# peft and transformers take seconds to import, and neither the driver nor Ray Train's controller needs them.
if TYPE_CHECKING:
    from consilience.ppo.trainer import Metrics, PPOTrainer


@dataclass(frozen=True, slots=True)
class Trained:
    """What a finished run leaves: its last checkpoint (`PPOTrainer.save`) and the metrics of every update."""

    checkpoint: Path
    history: "list[Metrics]"


def train_ppo(build: "Callable[[], PPOTrainer]", workers: PPOWorkersConfig, storage: Path, name: str) -> Trained:
    """Run all updates of the trainer that `build` makes in each worker; see `run_workers`.

    Args:
        build: called in every worker, after torch.distributed is set up; places the model on `ray.train.torch`'s
            device.

    Raises:
        UserError: the reward failed, or the settings are wrong; the last checkpoint is kept.
    """
    checkpoint = run_workers(_work, {"build": build, "workers": workers}, workers, storage, name)
    history = json.loads((checkpoint / "trainer.json").read_text(encoding="utf-8"))["history"]
    return Trained(checkpoint, history)


def _work(settings: dict[str, Any]) -> None:
    workers: PPOWorkersConfig = settings["workers"]
    trainer: PPOTrainer = settings["build"]()
    resume(trainer.load)
    while trainer.update < trainer.config.updates:
        metrics = trainer.step()
        note_progress(trainer.update, trainer.config.updates, f"reward {metrics['reward']:.3f}, KL {metrics['kl']:.2f}")
        due = trainer.update % workers.checkpoint_every == 0 or trainer.update == trainer.config.updates
        report(metrics, trainer.save if due else None)
