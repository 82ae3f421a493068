"""Ray Train: the same loop in one worker or several, resumed from its last checkpoint."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from consilience.errors import UserError
from consilience.files import write_json, write_text
from consilience.workers import PROGRESS, WorkersConfig

_CHECKPOINTS = "checkpoint_manager_snapshot.json"
_CHECKPOINTS_BEFORE = "checkpoints_before.json"

_folder: Path | None = None
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
    folder = storage.absolute() / name
    _mend_checkpoints(folder)
    # Not as Ray Train's own config: its controller unpickles that, and would import all that the loop imports.
    trainer = TorchTrainer(
        partial(_start, loop, settings, workers.num_cpus, folder),
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
        checkpoint: Checkpoint | None = _in_a_thread(trainer.fit).checkpoint
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
            if _folder is not None:
                _keep_checkpoints(_folder)
            new = Path(scratch) / "checkpoint"
            save(new)
            checkpoint = Checkpoint.from_directory(str(new))
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
    if due and _folder is not None and ray.train.get_context().get_world_rank() == 0:
        _noted_at = time.monotonic()
        write_json(_folder / PROGRESS, {"done": done, "total": total, "note": note})


def _start(loop: Callable[[dict[str, Any]], None], settings: dict[str, Any], num_cpus: float, folder: Path) -> None:
    global _folder
    torch.set_num_threads(max(1, int(num_cpus)))
    _folder = folder
    loop(settings)


def _in_a_thread(work: Callable[[], Result]) -> Result:
    """What `work` returns. In the main thread Ray Train would take Ctrl-C over, and end the process by itself."""
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result()


def _keep_checkpoints(folder: Path) -> None:
    """Copy Ray Train's list of checkpoints, which it writes in place: where the disk is full, the file is cut off."""
    if _names(folder / _CHECKPOINTS):
        write_text(folder / _CHECKPOINTS_BEFORE, (folder / _CHECKPOINTS).read_text(encoding="utf-8"))


def _mend_checkpoints(folder: Path) -> None:
    """In place of a list that was cut off: the one before, whose checkpoints are kept until the new list is there.

    Where there is none, the training begins anew.
    """
    listed, before = folder / _CHECKPOINTS, folder / _CHECKPOINTS_BEFORE
    if listed.exists() and _names(listed) is None:
        names = _names(before)
        if names and all((folder / name).is_dir() for name in names):
            write_text(listed, before.read_text(encoding="utf-8"))
        else:
            listed.unlink()


def _names(listed: Path) -> list[str] | None:
    """The folders in a list of checkpoints; None: no such file, or one that was cut off."""
    try:
        found = json.loads(listed.read_text(encoding="utf-8"))
        return [entry["checkpoint_dir_name"] for entry in found["checkpoint_results"]]
    except (OSError, ValueError, KeyError):
        return None
