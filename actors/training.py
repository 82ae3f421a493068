"""Ray Train: the same loop in one worker or several, resumed from its last checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from consilience.errors import UserError
from consilience.workers import WorkersConfig


def run_workers(
    loop: Callable[[dict[str, Any]], None], settings: dict[str, Any], workers: WorkersConfig, storage: Path, name: str
) -> Path:
    """Run `loop(settings)` in every worker of a group, torch.distributed set up and torch's threads pinned.

    A worker that dies takes its group back to the last checkpoint. The same `storage` (which all nodes can see) and
    `name` go on where an earlier call stopped, so a new run needs a new name.

    Returns:
        folder of the last checkpoint that the loop reported.

    Raises:
        UserError: a worker found a user's mistake; the last checkpoint is kept.
    """
    trainer = TorchTrainer(
        _start,
        train_loop_config={"loop": loop, "settings": settings, "num_cpus": workers.num_cpus},
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
        checkpoint: Checkpoint | None = trainer.fit().checkpoint
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            cause = getattr(failure, "_base_exc", failure)
            if isinstance(cause, UserError):
                raise cause from None
        raise
    assert checkpoint is not None, "a loop reports a checkpoint at its end"
    return Path(checkpoint.path)


def _start(train_loop_config: dict[str, Any]) -> None:
    torch.set_num_threads(max(1, int(train_loop_config["num_cpus"])))
    train_loop_config["loop"](train_loop_config["settings"])
