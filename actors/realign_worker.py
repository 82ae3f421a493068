"""Realignment on one or several workers: the Ray Train and Ray Tune wrappers around `consilience.realign`."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import ray.train
import torch
from ray import tune
from ray.tune import ResultGrid, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler
from safetensors.torch import load_file, save_file

from actors.training import note_progress, report, resume, run_workers
from consilience.files import write_json
from consilience.lm.language_model import LanguageModel, load_model
from consilience.realign.audit import audit
from consilience.realign.objective import Head
from consilience.realign.pair import Pair, build_trainer, make_readable
from consilience.realign.settings import RealignWorkersConfig, TrainingConfig, TuneSettings
from consilience.realign.training import LAMBDA0, TOKENS, Fit, Metrics, PairTrainer


@dataclass(frozen=True, eq=False)
class Trained:
    """What a finished pair leaves.

    Attributes:
        predictions: for each arm (n,) scores of held-out items, NaN elsewhere.
        scores: (n,) scores of the realigned model for every item.
        fit: rows and head for use.
        word: the theory word's own sub-tokens.
        audits: drift for the default lambda ("tokens") and for lambda = 0 ("lambda0").
        history: metrics of every epoch.
    """

    predictions: dict[str, npt.NDArray[np.float64]]
    scores: npt.NDArray[np.float64]
    fit: Fit
    word: tuple[int, ...]
    audits: dict[str, Any]
    history: list[Metrics]


@ray.remote(num_cpus=0, max_retries=0)
def train_pair(pair: Pair, config: TrainingConfig, workers: RealignWorkersConfig, storage: Path, name: str) -> Path:
    """Train one pair by a TorchTrainer of its own; a task, so that several pairs run side by side.

    See `run_workers`.

    Returns:
        folder of the last checkpoint, for `read_trained`.

    Raises:
        UserError: the model or its tokeniser does not allow it.
    """
    scratch = storage / name / "cache"
    return run_workers(
        _work, {"pair": pair, "config": config, "workers": workers, "scratch": scratch}, workers, storage, name
    )


def read_trained(folder: Path) -> Trained:
    """Read the last checkpoint of a finished pair."""
    tensors = load_file(folder / "trainer.safetensors")
    final = json.loads((folder / "final.json").read_text(encoding="utf-8"))
    history = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))["history"]
    state = load_file(folder / "head.safetensors")
    head = Head(len(state["centre"]), final["head"]).requires_grad_(False)
    head.load_state_dict(state)
    prefix = "predictions."
    predictions = {name.removeprefix(prefix): t.numpy() for name, t in tensors.items() if name.startswith(prefix)}
    fit = Fit(tensors[f"fits.{TOKENS}.rows"], head)
    return Trained(predictions, tensors["scores"].numpy(), fit, tuple(final["word"]), final["audits"], history)


def _work(settings: dict[str, Any]) -> None:
    workers: RealignWorkersConfig = settings["workers"]
    pair: Pair = settings["pair"]
    context = ray.train.get_context()
    model = load_model(pair.annotator.source, pair.annotator.revision, pair.annotator.dtype)
    rank, size = context.get_world_rank(), context.get_world_size()
    readable = make_readable(model, pair, settings["scratch"], workers.cache_gb * 1e9, rank, size)
    trainer = build_trainer(readable, pair, settings["config"])
    resume(trainer.load)
    with trainer.reading():
        read = 0
        while not trainer.finished:
            read += trainer.step_items
            metrics = trainer.step()
            note_progress(*trainer.epochs_done, f"{metrics['arm']}, dev JS {metrics['js_dev']:.3f}")
            if read >= workers.checkpoint_items and not trainer.finished:
                report(metrics, trainer.save)
                read = 0

    def finish(folder: Path) -> None:
        trainer.save(folder)
        _save_final(trainer, model, pair, folder)

    report(trainer.history[-1], finish)


def _save_final(trainer: PairTrainer, model: LanguageModel, pair: Pair, folder: Path) -> None:
    head = trainer.fit.head
    save_file(
        {name: value.cpu().contiguous() for name, value in head.state_dict().items()}, folder / "head.safetensors"
    )
    audits = {
        arm: audit(model, pair.theory, trainer.word.ids, trainer.fits[arm].rows)
        for arm in (TOKENS, LAMBDA0)
        if arm in trainer.fits
    }
    write_json(folder / "final.json", {"head": head.kind, "word": trainer.word.ids, "audits": audits})


def tune_pair(
    pair: Pair, config: TrainingConfig, workers: RealignWorkersConfig, search: TuneSettings, storage: Path, name: str
) -> TrainingConfig:
    """The settings with the least JS on dev that Ray Tune finds for the arm "tokens" on the first split.

    Lambda is 0, 0.1, 1 or 10, the head linear or mlp; learning rates are log-uniform about those of `config`. `config`
    itself is the first trial.
    """
    space = {
        "cosine_weight": tune.choice([0.0, 0.1, 1.0, 10.0]),
        "head": tune.choice(["linear", "mlp"]),
        "token_learning_rate": tune.loguniform(config.token_learning_rate / 10, config.token_learning_rate * 10),
        "head_learning_rate": tune.loguniform(config.head_learning_rate / 10, config.head_learning_rate * 10),
    }
    trial = tune.with_parameters(_trial, pair=pair, config=config, workers=workers)
    first = {key: getattr(config, key) for key in space}
    results: ResultGrid = Tuner(
        tune.with_resources(trial, {"CPU": workers.num_cpus, "GPU": workers.num_gpus}),
        param_space=space,
        tune_config=TuneConfig(
            metric="js_dev",
            mode="min",
            num_samples=search.trials,
            search_alg=tune.search.BasicVariantGenerator(points_to_evaluate=[first], random_state=pair.seed),
            scheduler=ASHAScheduler(max_t=config.epochs, grace_period=min(search.grace_epochs, config.epochs)),
        ),
        run_config=tune.RunConfig(name=name, storage_path=str(storage.absolute()), verbose=0),
    ).fit()
    best: dict[str, Any] = results.get_best_result(scope="all").config or {}
    return config.model_copy(update={key: best[key] for key in space})


def _trial(space: dict[str, Any], pair: Pair, config: TrainingConfig, workers: RealignWorkersConfig) -> None:
    torch.set_num_threads(max(1, int(workers.num_cpus)))
    model = load_model(pair.annotator.source, pair.annotator.revision, pair.annotator.dtype)
    chosen = config.model_copy(update=space)
    with TemporaryDirectory() as scratch:
        readable = make_readable(model, pair, Path(scratch), workers.cache_gb * 1e9)
        trainer = build_trainer(readable, pair, chosen, arms=(TOKENS,), splits=1)
        with trainer.reading():
            while not trainer.finished:
                tune.report(dict(trainer.step()))
