"""PPO on one or several workers: the Ray Train wrapper around `consilience.ppo`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
import torch
from pydantic import Field
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from consilience.config import Config
from consilience.errors import UserError
from consilience.ppo.trainer import Metrics, PPOTrainer


class WorkersConfig(Config):
    """Where a run of PPO runs. Any number of workers computes the same numbers."""

    workers: int = Field(1, ge=1, description="processes that share every batch; must divide its size")
    num_cpus: float = Field(1, gt=0, description="CPU cores of one worker")
    num_gpus: float = Field(0, ge=0, description="GPUs of one worker")
    checkpoint_every: int = Field(10, ge=1, description="updates between checkpoints")
    max_failures: int = Field(3, ge=0, description="restarts from the last checkpoint before the run is given up")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a finished run leaves: the last checkpoint (`PPOTrainer.save`) and the metrics of every update."""

    checkpoint: Checkpoint
    history: list[Metrics]


def train_ppo(build: Callable[[], PPOTrainer], workers: WorkersConfig, storage: Path, name: str) -> Trained:
    """Run all updates of the trainer that `build` makes in each worker.

    A worker that dies takes its group back to the last checkpoint. The same `storage` (which all nodes can see) and
    `name` go on where an earlier call stopped, so a new run needs a new name.

    Args:
        build: called in every worker, after torch.distributed is set up; places the model on `ray.train.torch`'s
            device.

    Raises:
        UserError: the reward failed, or the settings are wrong; the last checkpoint is kept.
    """
    trainer = TorchTrainer(
        _work,
        train_loop_config={"build": build, "workers": workers},
        scaling_config=ScalingConfig(
            num_workers=workers.workers,
            use_gpu=workers.num_gpus > 0,
            resources_per_worker={"CPU": workers.num_cpus, "GPU": workers.num_gpus},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage.absolute()),
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        result = trainer.fit()
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            cause = getattr(failure, "_base_exc", failure)
            if isinstance(cause, UserError):
                raise cause from None
        raise
    checkpoint = result.checkpoint
    assert checkpoint is not None, "the last update is always saved"
    with checkpoint.as_directory() as folder:
        history = json.loads((Path(folder) / "trainer.json").read_text(encoding="utf-8"))["history"]
    return Trained(checkpoint, history)


def _work(settings: dict[str, Any]) -> None:
    workers: WorkersConfig = settings["workers"]
    torch.set_num_threads(max(1, int(workers.num_cpus)))
    trainer: PPOTrainer = settings["build"]()
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.load(Path(folder))
    while trainer.update < trainer.config.updates:
        metrics = trainer.step()
        due = trainer.update % workers.checkpoint_every == 0 or trainer.update == trainer.config.updates
        with TemporaryDirectory() as scratch:
            saved = None
            if due and ray.train.get_context().get_world_rank() == 0:
                trainer.save(Path(scratch) / "checkpoint")
                saved = Checkpoint.from_directory(str(Path(scratch) / "checkpoint"))
            ray.train.report(metrics, checkpoint=saved)
