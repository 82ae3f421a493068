"""Value classifiers on one or several workers: Ray Train around `consilience.values.training`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from actors.training import note_progress, report, resume, run_workers
from consilience.table_schema import read_table
from consilience.tables import VALUE_EXAMPLES
from consilience.theories import VALUE_NAMES
from consilience.values.about import WEIGHTS
from consilience.values.classifier import ValueClassifier
from consilience.values.settings import ClassifierWorkersConfig, EncoderConfig, FitConfig
from consilience.values.split import TRAIN
from consilience.values.training import ClassifierTrainer

_LOGITS = "logits.safetensors"


@dataclass(frozen=True, eq=False)
class Trained:
    """What a finished training leaves.

    Attributes:
        weights: file of the classifier's weights.
        logits: (n, 5) of all examples, not calibrated; NaN for those that were trained on.
        history: per epoch, `loss_train` and `seconds`.
    """

    weights: Path
    logits: NDArray[np.float64]
    history: list[dict[str, float]]


def train_classifier(
    examples: Path,
    encoder: EncoderConfig,
    fit: FitConfig,
    seed: int,
    workers: ClassifierWorkersConfig,
    storage: Path,
    name: str,
) -> Trained:
    """Train on the table `value_examples` in file `examples`, which every worker reads; see `run_workers`.

    Raises:
        UserError: the encoder cannot be had, or there is nothing to train on.
    """
    settings = {"examples": examples.absolute(), "encoder": encoder, "fit": fit, "seed": seed, "workers": workers}
    folder = run_workers(_work, settings, workers, storage, name)
    history = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))["history"]
    return Trained(folder / WEIGHTS, load_file(folder / _LOGITS)["logits"], history)


def _work(settings: dict[str, Any]) -> None:
    workers: ClassifierWorkersConfig = settings["workers"]
    examples = read_table(settings["examples"], VALUE_EXAMPLES).to_pandas()
    model = ValueClassifier.build(settings["encoder"], settings["seed"])
    trainer = ClassifierTrainer(model, examples, settings["fit"], settings["seed"])
    resume(trainer.load)
    metrics = {"step": float(trainer.step_number)}
    while not trainer.finished:
        metrics = trainer.step()
        note_progress(trainer.step_number, trainer.steps, f"loss {metrics['loss']:.3f}")
        if trainer.step_number % workers.checkpoint_batches == 0 and not trainer.finished:
            report(metrics, trainer.save)
    logits = np.full((len(examples), len(VALUE_NAMES)), np.nan)
    held_out = (examples["split"] != TRAIN).to_numpy()
    logits[held_out] = trainer.logits(examples.loc[held_out, "text"].tolist())

    def finish(folder: Path) -> None:
        trainer.save(folder)
        save_file({"logits": logits}, folder / _LOGITS)

    report(metrics, finish)
