"""Calibration on Ray: Ray Train around `calibration.training`, Ray Data around `calibration.models.read`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy
from safetensors.torch import load_file

from actors.training import report, resume, run_workers
from consilience.calibration.assessment import Reading
from consilience.calibration.models import AnswerModel, TunedEncoder, TunedLanguageModel, open_language_model, read
from consilience.calibration.settings import EncoderFit, LanguageModelFit, Loss, ModelConfig, TuningWorkersConfig
from consilience.calibration.tasks import VotedItems
from consilience.calibration.training import BEST, COUNTERS, CalibrationTrainer, put
from consilience.values.settings import EncoderConfig

_ITEMS_PER_BATCH = 64


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a finished training leaves.

    Attributes:
        weights: file of what was trained, at the epoch with the least cross-entropy on dev.
        history: per epoch, see `CalibrationTrainer`.
    """

    weights: Path
    history: list[dict[str, float | None]]


def tune(
    train: VotedItems,
    dev: VotedItems,
    model: ModelConfig | EncoderConfig,
    fit: LanguageModelFit | EncoderFit,
    loss: Loss,
    seed: int,
    workers: TuningWorkersConfig,
    storage: Path,
    name: str,
) -> Tuned:
    """Tune a language model's adapter or an encoder on `train`; see `run_workers`.

    Raises:
        UserError: the model cannot be had, cannot answer, or the loss needs counts that are not known.
    """
    settings = {"train": train, "dev": dev, "model": model, "fit": fit, "loss": loss, "seed": seed, "workers": workers}
    folder = run_workers(_work, settings, workers, storage, name)
    history = json.loads((folder / COUNTERS).read_text(encoding="utf-8"))["history"]
    return Tuned(folder / BEST, history)


def _work(settings: dict[str, Any]) -> None:
    fit, seed, train = settings["fit"], settings["seed"], settings["train"]
    model: AnswerModel
    if isinstance(settings["model"], ModelConfig):
        model = TunedLanguageModel(open_language_model(settings["model"]), train, settings["model"].pairs, fit, seed)
    else:
        model = TunedEncoder(settings["model"], train, seed)
    trainer = CalibrationTrainer(model, train, settings["dev"], settings["loss"], fit, seed)
    resume(trainer.load)
    metrics = {"step": float(trainer.step_number)}
    while not trainer.finished:
        metrics = trainer.step()
        if trainer.step_number % settings["workers"].checkpoint_batches == 0 and not trainer.finished:
            report(metrics, trainer.save)
    report(metrics, trainer.save)


def read_items(
    items: VotedItems, model: ModelConfig | EncoderConfig, weights: Path | None, workers: TuningWorkersConfig
) -> Reading:
    """Ask a model about all items, on as many actors as there are workers.

    Args:
        items: n items.
        model: a language model, with the adapter in folder `weights`; or an encoder, with the trained weights in file
            `weights`.
        weights: None for a language model as it comes.
        workers: how many actors, with which resources.

    Raises:
        UserError: the model cannot be had or cannot answer.
    """
    rows = (
        # Not `range`: its tasks would need a CPU beside the actors, which may have taken all.
        ray.data.from_items([{"id": item} for item in range(len(items))])
        .map_batches(
            _Reader,
            fn_constructor_args=(items, model, weights),
            batch_size=_ITEMS_PER_BATCH,
            compute=ActorPoolStrategy(size=workers.workers),
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus,
        )
        .take_all()
    )
    rows.sort(key=lambda row: row["item"])
    return Reading(np.stack([row["logits"] for row in rows]), np.array([row["mass"] for row in rows]))


class _Reader:
    """Callable for Ray Data: numbers of items in, their logits and answer masses out."""

    def __init__(self, items: VotedItems, model: ModelConfig | EncoderConfig, weights: Path | None) -> None:
        self._items = items
        self._model: AnswerModel
        if isinstance(model, ModelConfig):
            self._model = TunedLanguageModel(open_language_model(model, weights), items, model.pairs)
        else:
            self._model = TunedEncoder(model, items, seed=0)
            if weights is not None:
                put(self._model.trainable, load_file(weights))

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        logits, mass = read(self._model, self._items.take(batch["id"]))
        return {"item": batch["id"], "logits": logits, "mass": mass}
