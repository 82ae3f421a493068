"""Learning a table on Ray: Ray Train around fine-tuning and PPO, a task around the discriminator."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.train
from ray.train import Checkpoint

from actors.cluster import gather
from actors.ppo_worker import train_ppo
from actors.training import note_progress, run_workers
from consilience.files import write_json
from consilience.ppo.settings import PPOWorkersConfig
from consilience.ppo.trainer import Metrics
from consilience.tabular.adversarial import Rows
from consilience.tabular.fine_tuning import HISTORY
from consilience.tabular.local_steps import discriminate, fine_tuner, merge, policy_trainer
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import GeneratorConfig

_MODEL = "model"


def fine_tune(
    config: GeneratorConfig,
    schema: TableSchema,
    train: Rows,
    held_out: Rows,
    workers: PPOWorkersConfig,
    storage: Path,
    name: str,
) -> tuple[Path, list[Metrics]]:
    """Teach a fresh model the rows of `train`; see `run_workers`. `checkpoint_every` counts epochs.

    Returns:
        folder of the model and what `FineTuner.history` says.

    Raises:
        UserError: the base cannot be had, or does not learn.
    """
    settings = {"config": config, "schema": schema, "train": train, "held_out": held_out, "workers": workers}
    folder = run_workers(_fine_tune, settings, workers, storage, name)
    return folder / _MODEL, json.loads((folder / HISTORY).read_text(encoding="utf-8"))["history"]


def _fine_tune(settings: dict[str, Any]) -> None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None and (Path(checkpoint.path) / _MODEL).exists():
        ray.train.report({}, checkpoint=checkpoint)  # it had finished
        return
    tuner = fine_tuner(settings["config"], settings["schema"], settings["train"], settings["held_out"])
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            tuner.load(Path(folder))
    every: int = settings["workers"].checkpoint_every
    while not tuner.finished:
        metrics = tuner.epoch()
        epoch = len(tuner.history)
        note_progress(epoch, tuner.config.epochs, f"loss {metrics['loss']:.2f}")
        if epoch % every == 0 and not tuner.finished:
            _report(tuner.save, metrics)
    tuner.restore_best()

    def finish(folder: Path) -> None:
        tuner.model.save(folder / _MODEL)
        write_json(folder / HISTORY, {"history": tuner.history})

    _report(finish, {})


def _report(save: Callable[[Path], None], metrics: Metrics) -> None:
    """Report to Ray Train, with a checkpoint from rank 0 that `save` writes."""
    with TemporaryDirectory() as scratch:
        saved = None
        if ray.train.get_context().get_world_rank() == 0:
            folder = Path(scratch) / "checkpoint"
            save(folder)
            saved = Checkpoint.from_directory(str(folder))
        ray.train.report(dict(metrics), checkpoint=saved)


def train_discriminator(
    config: GeneratorConfig,
    schema: TableSchema,
    real: Rows,
    made: Rows,
    held_out: Rows,
    judged: Rows,
    workers: PPOWorkersConfig,
    folder: Path,
) -> float:
    """`local_steps.discriminate` in a process of its own, with the resources of one worker."""
    train = _discriminate.options(num_cpus=workers.num_cpus, num_gpus=workers.num_gpus)
    auc: float = gather([train.remote(config, schema, real, made, held_out, judged, folder.absolute())])[0]
    return auc


def improve(
    config: GeneratorConfig,
    model: Path,
    discriminator: Path,
    workers: PPOWorkersConfig,
    storage: Path,
    name: str,
    folder: Path,
) -> list[Metrics]:
    """PPO of the model in a folder against a discriminator; writes the model that comes of it into `folder`.

    Returns:
        metrics of every update.
    """
    build = partial(policy_trainer, config, model.absolute(), discriminator.absolute())
    trained = train_ppo(build, workers, storage, name)
    gather([_merge.options(num_cpus=workers.num_cpus).remote(model.absolute(), trained.checkpoint, folder.absolute())])
    return trained.history


@ray.remote(max_calls=1)
def _discriminate(
    config: GeneratorConfig, schema: TableSchema, real: Rows, made: Rows, held_out: Rows, judged: Rows, folder: Path
) -> float:
    return discriminate(config, schema, real, made, held_out, judged, folder)


@ray.remote(max_calls=1)
def _merge(model: Path, checkpoint: Path, folder: Path) -> None:
    merge(model, checkpoint, folder)
