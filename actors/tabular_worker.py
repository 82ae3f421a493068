"""Learning a table on Ray: Ray Train around fine-tuning and PPO, a task around the discriminator."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train

from actors.cluster import gather
from actors.training import note_progress, report, resume, run_workers
from consilience.files import write_json
from consilience.ppo.settings import PPOWorkersConfig
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import GeneratorConfig

# transformers, peft and scikit-learn take seconds to import: whatever runs in a worker does so there, since neither the
# driver nor Ray Train's controller, which imports this module too, needs them.
if TYPE_CHECKING:
    from consilience.ppo.trainer import Metrics, PPOTrainer
    from consilience.tabular.adversarial import Contest, Rows

_HISTORY = "history.json"
_MODEL = "model"


def fine_tune(
    config: GeneratorConfig,
    schema: TableSchema,
    train: "Rows",
    held_out: "Rows",
    workers: PPOWorkersConfig,
    storage: Path,
    name: str,
) -> "tuple[Path, list[Metrics]]":
    """Teach a fresh model the rows of `train`; see `run_workers`. `checkpoint_every` counts epochs.

    Returns:
        folder of the model and what `FineTuner.history` says.

    Raises:
        UserError: the base cannot be had, or does not learn.
    """
    settings = {"config": config, "schema": schema, "train": train, "held_out": held_out, "workers": workers}
    folder = run_workers(_fine_tune, settings, workers, storage, name)
    return folder / _MODEL, json.loads((folder / _HISTORY).read_text(encoding="utf-8"))


def _fine_tune(settings: dict[str, Any]) -> None:
    from consilience.tabular.local_steps import fine_tuner

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None and (Path(checkpoint.path) / _MODEL).exists():
        ray.train.report({}, checkpoint=checkpoint)  # it had finished
        return
    tuner = fine_tuner(settings["config"], settings["schema"], settings["train"], settings["held_out"])
    resume(tuner.load)
    every: int = settings["workers"].checkpoint_every
    while not tuner.finished:
        metrics = tuner.epoch()
        epoch = len(tuner.history)
        note_progress(epoch, tuner.config.epochs, f"loss {metrics['loss']:.2f}")
        if epoch % every == 0 and not tuner.finished:
            report(metrics, tuner.save)
    tuner.restore_best()

    def finish(folder: Path) -> None:
        tuner.model.save(folder / _MODEL)
        write_json(folder / _HISTORY, tuner.history)

    report({}, finish)


def train_discriminator(
    config: GeneratorConfig, schema: TableSchema, rows: "Contest", workers: PPOWorkersConfig, folder: Path
) -> float:
    """`local_steps.discriminate` in a process beside this one, with the resources of one worker.

    A process without a GPU goes on to the next such task, its imports done; Ray ends one with a GPU after each.
    """
    train = ray.remote(num_cpus=workers.num_cpus, num_gpus=workers.num_gpus)(_discriminate)
    auc: float = gather([train.remote(config, schema, rows, folder.absolute())])[0]
    return auc


def improve(
    config: GeneratorConfig,
    model: Path,
    discriminator: Path,
    workers: PPOWorkersConfig,
    storage: Path,
    name: str,
    folder: Path,
) -> "list[Metrics]":
    """PPO of the model in a folder against a discriminator; writes the model that comes of it into `folder`.

    Returns:
        metrics of every update.
    """
    from actors.ppo_worker import train_ppo

    build = partial(_policy_trainer, config, model.absolute(), discriminator.absolute())
    trained = train_ppo(build, workers, storage, name)
    write = ray.remote(num_cpus=workers.num_cpus)(_merge)
    gather([write.remote(model.absolute(), trained.checkpoint, folder.absolute())])
    return trained.history


def _policy_trainer(config: GeneratorConfig, model: Path, discriminator: Path) -> "PPOTrainer":
    from consilience.tabular.local_steps import policy_trainer

    return policy_trainer(config, model, discriminator)


def _discriminate(config: GeneratorConfig, schema: TableSchema, rows: "Contest", folder: Path) -> float:
    from consilience.tabular.local_steps import discriminate

    return discriminate(config, schema, rows, folder)


def _merge(model: Path, checkpoint: Path, folder: Path) -> None:
    from consilience.tabular.local_steps import merge

    merge(model, checkpoint, folder)
