"""Ray Train: the same loop in one worker or several, resumed from its last checkpoint."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from consilience.errors import UserError
from consilience.files import write_json
from consilience.workers import PROGRESS, WorkersConfig

_progress_file: Path | None = None
_noted_at = 0.0


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
    # Not as Ray Train's own config: its controller unpickles that, and would import all that the loop imports.
    trainer = TorchTrainer(
        partial(_start, loop, settings, workers.num_cpus, storage.absolute() / name / PROGRESS),
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


def resume(load: Callable[[Path], None]) -> None:
    """Let `load` read the last checkpoint's folder; does nothing where there is none. To be called in the loop."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            load(Path(folder))


def report(metrics: Mapping[str, Any], save: Callable[[Path], None] | None = None) -> None:
    """Report to Ray Train, in every worker of the loop; it takes two seconds.

    Args:
        metrics: of the last step.
        save: makes the folder that it is given and writes a checkpoint into it; called in rank 0 alone. None = no
            checkpoint is due.
    """
    with TemporaryDirectory() as scratch:
        checkpoint = None
        if save is not None and ray.train.get_context().get_world_rank() == 0:
            folder = Path(scratch) / "checkpoint"
            save(folder)
            checkpoint = Checkpoint.from_directory(str(folder))
        ray.train.report(dict(metrics), checkpoint=checkpoint)


def note_progress(done: int, total: int, note: str = "") -> None:
    """Tell who watches the training's folder (`jobs.progress.watching`) how far it is, once a second at most.

    To be called in the loop's workers; rank 0 writes.

    Args:
        done, total: steps.
        note: a few words on where the training stands.
    """
    global _noted_at
    due = done == total or time.monotonic() - _noted_at >= 1.0
    if due and _progress_file is not None and ray.train.get_context().get_world_rank() == 0:
        _noted_at = time.monotonic()
        write_json(_progress_file, {"done": done, "total": total, "note": note})


def _start(loop: Callable[[dict[str, Any]], None], settings: dict[str, Any], num_cpus: float, progress: Path) -> None:
    global _progress_file
    torch.set_num_threads(max(1, int(num_cpus)))
    _progress_file = progress
    loop(settings)
