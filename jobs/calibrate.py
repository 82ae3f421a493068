"""Calibrate: how far is a model's answer distribution from people's votes, before and after it is tuned on them?

People's votes are dealt to training, dev and test so that no text stands in two parts. A language model is measured,
tuned (LoRA) with cross-entropy or Dirichlet-multinomial loss, and measured again, beside prior, majority, bag of words,
a text encoder tuned likewise, a second sample of people, and the best that anything could achieve.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from consilience.calibration.settings import EncoderFit, LanguageModelFit, Loss, ModelConfig, TuningWorkersConfig
from consilience.calibration.splits import DEV, TRAIN, Split, SplitConfig, split_items
from consilience.calibration.tasks import TaskName, VotedItems, read_voted
from consilience.config import Config
from consilience.errors import UserError
from consilience.files import atomic_path, digest_file, digest_json, write_json
from consilience.lm.sources import (
    ADAPTER_SETTINGS,
    ADAPTER_WEIGHTS,
    check_source,
    digest_adapter,
    open_source,
)
from consilience.runs import Run
from consilience.tables import CALIBRATE_METRICS, CALIBRATE_PREDICTIONS
from consilience.values.settings import EncoderConfig
from jobs.cli import Job, Summary, console, main, rounded
from jobs.run_tables import write_frame, write_rows

if TYPE_CHECKING:
    from consilience.calibration.assessment import Assessment, Reading


class CalibrateConfig(Config):
    """Votes, the model that is to match them, and how it is tuned."""

    data: Path = Field(description="items with people's votes, in the form that `task` says")
    task: TaskName = Field("dilemmas", description="dilemmas, anecdotes, anecdotes_binary (Scruples) or texts (own)")
    model: ModelConfig = Field(description="language model; a source alone will do")
    loss: Loss | None = Field("cross_entropy", description="what is tuned for; null: measure, tune nothing")
    fit: LanguageModelFit = Field(LanguageModelFit(), description="adapter, epochs, batch size, learning rates")
    encoder: EncoderConfig | None = Field(EncoderConfig(), description="baseline tuned with the same loss; null: none")
    encoder_fit: EncoderFit = Field(EncoderFit(), description="epochs, batch size, learning rates of the encoder")
    split: SplitConfig = Field(SplitConfig(), description="shares and seed of training, dev and test")
    workers: TuningWorkersConfig = Field(TuningWorkersConfig(), description="where models are tuned and read")
    seed: int = Field(0, ge=0, description="of adapter, encoder head and the order of items")

    @field_validator("model", mode="before")
    @classmethod
    def _source_alone(cls, given: object) -> object:
        return {"source": given} if isinstance(given, str) else given


def plan(config: CalibrateConfig) -> list[str]:
    """Check that data and models are there; say what would be done."""
    items, split = split_items(read_voted(config.data, config.task), config.split)
    if config.loss == "dirichlet_multinomial" and not items.counted:
        raise UserError(f"{config.data}: shares, not counts; loss 'dirichlet_multinomial' needs counts")
    check_source(config.model.source, config.model.revision)
    if config.encoder is not None:
        check_source(config.encoder.source, config.encoder.revision)
    if config.model.four_bit:
        from consilience.lm.language_model import check_four_bit

        check_four_bit()
    counts = ", ".join(f"{count} {part}" for part, count in split.counts.items())
    encoder = _encoder(config)
    tuned = "measure only" if config.loss is None else f"{config.loss}, {config.fit.epochs} epochs"
    return [
        f"{config.data}: {len(items)} items, {items.unvoted} more without votes; options {', '.join(items.options)}",
        f"  {counts}; {split.components} connected components",
        f"{config.model.source}: {tuned}, {config.workers.workers} workers",
        *([f"{encoder.source}: baseline, {config.encoder_fit.epochs} epochs"] if encoder is not None else []),
    ]


def execute(config: CalibrateConfig, run: Run) -> Summary:
    """Split, measure, tune, measure again, compare."""
    started = time.monotonic()
    items, split = split_items(read_voted(config.data, config.task), config.split)
    files = open_source(config.model.source, config.model.revision)
    licences = {config.model.source: files.licence}
    digests = [files.digest, files.settings_digest]
    if config.encoder is not None:
        encoder_files = open_source(config.encoder.source, config.encoder.revision)
        licences[config.encoder.source] = encoder_files.licence
        digests += [encoder_files.digest, encoder_files.settings_digest]
    data = digest_file(config.data)
    run.record(inputs={str(config.data): data}, licences=licences)
    common = digest_json([data, config.task, config.split.model_dump(mode="json"), digests])

    # Here, because torch and Ray take seconds to import and a dry run needs none of them.
    from actors.cluster import connect
    from consilience.calibration.assessment import AFTER, BEFORE, ENCODER, assess

    connect(*config.workers.at_once)
    stages = _Stages(config, run, items, split, common)
    readings = {BEFORE: stages.read(BEFORE, config.model, None)}
    if config.loss is not None:
        readings[AFTER] = stages.read(AFTER, config.model, stages.tune_language_model(files.digest))
    if (encoder := _encoder(config)) is not None:
        readings[ENCODER] = stages.read(ENCODER, encoder, stages.tune_encoder(encoder))
    found = assess(items, split, readings)
    write_rows(found.metrics, run, CALIBRATE_METRICS)
    write_frame(found.predictions, run, CALIBRATE_PREDICTIONS)
    run.record(
        splits=split.counts,
        components=split.components,
        unvoted=items.unvoted,
        systems=found.systems,
        gain=found.gain,
        gap_closed=found.gap_closed,
        dirichlet=found.dirichlet,
    )
    if config.loss is not None:
        stages.describe_adapter(files.digest, found.systems[AFTER])
    return {**_headline(found, items, split), "seconds": round(time.monotonic() - started, 3)}


def _encoder(config: CalibrateConfig) -> EncoderConfig | None:
    """The encoder is tuned with the loss of the language model, or not at all."""
    return None if config.loss is None else config.encoder


class _Stages:
    """The parts of a run that take long, each done once per fingerprint."""

    def __init__(self, config: CalibrateConfig, run: Run, items: VotedItems, split: Split, common: str) -> None:
        self._config, self._run, self._items, self._split, self._common = config, run, items, split, common
        self._train, self._dev = items.take(split.rows(TRAIN)), items.take(split.rows(DEV))

    def read(self, system: str, model: ModelConfig | EncoderConfig, weights: Path | None) -> "Reading":
        """What the model says of the held-out items."""
        from safetensors.numpy import load_file, save_file

        from actors.calibrate_worker import read_items
        from consilience.calibration.assessment import Reading, held_out

        name = f"readings/{system}.safetensors"
        trained = None if weights is None else self._digest(weights)
        version = digest_json([self._common, model.model_dump(mode="json"), trained])
        if not self._run.finished(f"read_{system}", version, name):
            with self._run.stage(f"read_{system}", version):
                reading = read_items(held_out(self._items, self._split), model, weights, self._config.workers)
                with atomic_path(self._run / name) as path:
                    save_file({"logits": reading.logits, "mass": reading.mass}, path)
        found = load_file(self._run / name)
        return Reading(found["logits"], found["mass"])

    def tune_language_model(self, base_digest: str) -> Path:
        """Folder of the adapter."""
        from safetensors.torch import load_file

        from consilience.calibration.training import CONCENTRATION
        from consilience.lm.adapters import save_adapter

        config, folder = self._config, self._run / "adapter"
        version = self._version(config.model, config.fit)
        if not self._run.finished("tune", version, f"adapter/{ADAPTER_WEIGHTS}", f"adapter/{ADAPTER_SETTINGS}"):
            with self._run.stage("tune", version):
                weights = load_file(self._tune("tune", config.model, config.fit, version))
                concentration = weights.pop(CONCENTRATION, None)
                save_adapter(folder, config.fit.lora.rank, config.fit.lora.alpha, weights, base_digest)
                self._run.record(concentration=None if concentration is None else float(concentration.exp()))
            shutil.rmtree(self._run / "training" / f"tune-{version[:12]}", ignore_errors=True)
        return folder

    def tune_encoder(self, encoder: EncoderConfig) -> Path:
        """File of the encoder's trained weights."""
        file = self._run / "encoder.safetensors"
        version = self._version(encoder, self._config.encoder_fit)
        if not self._run.finished("tune_encoder", version, file.name):
            with self._run.stage("tune_encoder", version):
                weights = self._tune("tune_encoder", encoder, self._config.encoder_fit, version)
                with atomic_path(file) as path:
                    shutil.copyfile(weights, path)
            shutil.rmtree(self._run / "training" / f"tune_encoder-{version[:12]}", ignore_errors=True)
        return file

    def describe_adapter(self, base_digest: str, system: dict[str, float | None]) -> None:
        """Write what the adapter was tuned on and for beside it."""
        facts = {
            "task": self._config.task,
            "loss": self._config.loss,
            "pairs": self._config.model.pairs,
            "base": self._config.model.source,
            "base_digest": base_digest,
            "data_digest": self._run.manifest["inputs"][str(self._config.data)],
            "learned_concentration": self._run.manifest["concentration"],
            **system,
        }
        write_json(self._run / "adapter" / "calibration.json", facts)

    def _tune(
        self, stage: str, model: ModelConfig | EncoderConfig, fit: LanguageModelFit | EncoderFit, version: str
    ) -> Path:
        from actors.calibrate_worker import tune

        config = self._config
        assert config.loss is not None, "nothing is tuned without a loss"
        tuned = tune(
            self._train,
            self._dev,
            model,
            fit,
            config.loss,
            config.seed,
            config.workers,
            self._run / "training",
            f"{stage}-{version[:12]}",
        )
        self._run.record(**{f"{stage}_history": tuned.history})
        return tuned.weights

    def _version(self, model: ModelConfig | EncoderConfig, fit: LanguageModelFit | EncoderFit) -> str:
        blocks = [block.model_dump(mode="json") for block in (model, fit)]
        return digest_json([self._common, blocks, self._config.loss, self._config.seed])

    @staticmethod
    def _digest(weights: Path) -> str:
        return digest_adapter(weights) if weights.is_dir() else digest_file(weights)


def _headline(found: "Assessment", items: VotedItems, split: Split) -> Summary:
    from consilience.calibration.assessment import AFTER, BEFORE, BOUND, ENCODER, PRIOR

    value = {(row["system"], row["metric"]): row["value"] for row in found.metrics}
    summary: Summary = {"items": len(items), **{f"items_{part}": count for part, count in split.counts.items()}}
    for system in (PRIOR, BEFORE, AFTER, ENCODER, BOUND):
        summary[f"ce_{system}"] = rounded(value.get((system, "ce")))
        summary[f"dm_{system}"] = rounded(value.get((system, "dm")))
    for system in (BEFORE, AFTER):
        summary[f"answer_mass_{system}"] = rounded(found.systems.get(system, {}).get("answer_mass"))
        summary[f"position_bias_{system}"] = rounded(found.systems.get(system, {}).get("position_bias"))
    for system in (AFTER, ENCODER):
        closed, gain = found.gap_closed.get(system, {}), found.gain.get(system, {})
        for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
            summary[f"gain_{system}{end}"] = rounded(gain.get(key))
            summary[f"gap_closed_{system}{end}"] = rounded(closed.get(key))
    return summary


def show(folder: Path) -> None:
    """Write the report page and print its table."""
    from consilience.report.calibrate import print_calibration, write_report

    write_report(folder)
    print_calibration(folder, console)


JOB = Job("calibrate", __doc__, CalibrateConfig, plan, execute, inputs=("data", "model", "loss"), show=show)

if __name__ == "__main__":
    sys.exit(main(JOB))
