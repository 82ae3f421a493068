"""Augment: learn a table and write new rows like its own, with a report on what they are worth and what they give away.

A language model is fine-tuned on the rows and guided by PPO against a discriminator of real from generated rows
(method ppo), or fine-tuned alone (sft); resample redraws two cells of real rows, the procedure that the paper's code
has, for comparison. A share of the rows is held out to judge by: learners trained on new rows are tested on it.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from consilience.errors import UserError
from consilience.files import digest_file, digest_json, write_json
from consilience.lm.sources import check_source, open_source
from consilience.ppo.settings import PPOWorkersConfig
from consilience.runs import Run
from consilience.tabular.settings import GeneratorConfig, Method
from jobs.cli import Job, Summary, console, main, rounded
from jobs.reporting import say

# pandas, torch and Ray take seconds to import, and --help and --dry-run need little of them: see the functions.
if TYPE_CHECKING:
    import pandas as pd

    from consilience.tabular.schema import TableSchema

    Frames = Mapping[str, pd.DataFrame]


class AugmentConfig(GeneratorConfig):
    """A table, how many rows to make of it, and how."""

    data: Path = Field(description="the table, CSV or Parquet; the new rows are written in the same format")
    target: str | None = Field(None, description="column that the rows are to be useful for predicting")
    rows: int = Field(1000, ge=1, description="rows to write")
    method: Method = Field("ppo", description="ppo, sft (fine-tuned alone) or resample (real rows, two cells redrawn)")
    conditions: dict[str, Any] = Field({}, description="column to the value that every new row has in it")
    missing: tuple[str, ...] = Field((), description="of a CSV: texts that mean a missing value, besides the usual")
    test: float = Field(0.2, gt=0, lt=1, description="share of the rows that is held out to judge by")
    workers: PPOWorkersConfig = Field(
        PPOWorkersConfig(), description="of training, checkpoints in epochs or updates, and of sampling"
    )

    @model_validator(mode="after")
    def _method_fits(self) -> "AugmentConfig":
        if self.method == "ppo":
            if self.adversarial is None:
                raise ValueError("method ppo needs `adversarial`; expected method sft without it")
            self.adversarial.ppo.check_workers(self.workers.workers)
        if self.method == "resample" and self.conditions:
            raise ValueError("conditions: method resample takes none")
        return self


def plan(config: AugmentConfig) -> list[str]:
    """Check table, conditions and model sources; say what would be done."""
    from consilience.tabular.conditions import read_conditions

    train, test, schema = _read(config)
    read_conditions(schema, config.conditions)
    given = ", ".join(f"{name} = {value}" for name, value in config.conditions.items())
    lines = [
        f"{config.data}: {len(train) + len(test)} rows of {len(schema.columns)} columns; "
        f"{len(train)} to learn from, {len(test)} to judge by",
        f"  {config.rows} new rows by method {config.method}{f', given {given}' if given else ''}",
    ]
    if config.method == "resample":
        return lines
    check_source(config.base.source, config.base.revision)
    lines.append(f"  {config.base.source}: at most {config.fine_tuning.epochs} epochs")
    if config.method == "ppo" and config.adversarial is not None:
        encoder, ppo = config.discriminator.encoder, config.adversarial.ppo
        check_source(encoder.source, encoder.revision)
        lines.append(
            f"  at most {config.adversarial.rounds} rounds against {encoder.source}, "
            f"{ppo.updates} updates of {ppo.batch_size} rows each"
        )
    return lines


def execute(config: AugmentConfig, run: Run) -> Summary:
    """Learn, sample, judge, and write the run folder."""
    from consilience.tabular.table_files import file_like, write_frame

    started = time.monotonic()
    train, test, schema = _read(config)
    run.record(inputs={str(config.data): digest_file(config.data)})
    make = _resample if config.method == "resample" else _generate
    rows, judged, rows_per_second = make(config, run, train, schema)
    write_frame(rows, run / file_like(config.data, "rows"))
    found = _assess(config, run, train, test, schema, judged)
    return {
        "rows": len(rows),
        **_headline(config, found),
        "rows_per_second": round(rows_per_second, 2),
        "rounds": len(run.manifest.get("rounds") or []),
        "seconds": round(time.monotonic() - started, 3),
    }


def show(folder: Path) -> None:
    """Write the report page and print its table."""
    from consilience.report.augment import print_augmentation, write_report

    write_report(folder)
    print_augmentation(folder, console)


def _read(config: AugmentConfig) -> "tuple[pd.DataFrame, pd.DataFrame, TableSchema]":
    """Rows to learn from, rows to judge by, and the schema of the former, which is all that a generator knows."""
    from consilience.tabular.schema import TableSchema
    from consilience.tabular.table_files import hold_out, read_frame

    frame = read_frame(config.data, config.missing)
    try:
        TableSchema.of(frame, config.target)
        train, test = hold_out(frame, config.target, config.test, config.seed)
        return train, test, TableSchema.of(train, config.target)
    except UserError as error:
        raise UserError(f"{config.data}: {error}") from None


def _resample(
    config: AugmentConfig, run: Run, train: "pd.DataFrame", schema: "TableSchema"
) -> "tuple[pd.DataFrame, Frames, float]":
    from consilience.tabular.simple_generators import resample

    started = time.perf_counter()
    rows = resample(train, schema, config.rows, config.seed)
    seconds = time.perf_counter() - started
    run.record(rounds=None, round_used=None, reason_of_end=None, generator=None)
    return rows, {"resample": resample(train, schema, len(train), config.seed + 1)}, config.rows / seconds


def _generate(
    config: AugmentConfig, run: Run, train: "pd.DataFrame", schema: "TableSchema"
) -> "tuple[pd.DataFrame, Frames, float]":
    """The new rows, rows to be judged by system, and how fast rows were drawn."""
    # Here, because torch and Ray take seconds to import and a dry run needs none of them.
    from actors.cluster import connect
    from actors.table_sampler import Draw
    from consilience.tabular.adversarial import JUDGED, WRITTEN, learn
    from consilience.tabular.conditions import read_conditions
    from jobs.augment_steps import MODELS, ClusterSteps
    from jobs.progress import watching

    files = open_source(config.base.source, config.base.revision)
    run.record(licences={config.base.source: files.licence})
    connect(*config.workers.at_once)
    data = digest_json([digest_file(config.data), config.missing, config.test, files.digest, files.settings_digest])
    guide = None
    if config.method == "ppo":
        encoder = open_source(config.discriminator.encoder.source, config.discriminator.encoder.revision)
        guide = digest_json([encoder.digest, encoder.settings_digest])
    steps = ClusterSteps(config, run, schema, data, guide)
    adversarial = config.adversarial if config.method == "ppo" else None
    with watching(run / "training"):
        rows, models = schema.rows(train), run / MODELS
        learned = learn(rows, schema, config.validation, adversarial, config.seed, steps, models)
    best, first = learned.models[learned.best], learned.models[0]
    rounds = [each.to_json() for each in learned.rounds]
    run.record(
        rounds=rounds,
        round_used=learned.best,
        reason_of_end=learned.reason,
        generator=str(best.relative_to(run.folder)),
    )
    say(f"rounds: {learned.reason}; round {learned.best} is used", round=learned.best)
    given = read_conditions(schema, config.conditions)
    judged = {config.method: best, "sft": first} if config.method == "ppo" else {config.method: best}
    drawn = steps.draw(
        {
            "rows": Draw(best, config.rows, given, (config.seed, WRITTEN)),
            # By model: where the fine-tuned one is used both systems are the same.
            **{f"judged-{each.name}": Draw(each, len(train), {}, (config.seed, JUDGED)) for each in judged.values()},
        }
    )
    frames = {system: schema.frame(drawn[f"judged-{each.name}"]) for system, each in judged.items()}
    return schema.frame(drawn["rows"]), frames, run.manifest["rows_per_second"]["rows"]


def _assess(
    config: AugmentConfig,
    run: Run,
    train: "pd.DataFrame",
    test: "pd.DataFrame",
    schema: "TableSchema",
    judged: "Frames",
) -> dict[str, Any]:
    """What each system's rows are worth, between real rows, the upper bound, and independent columns, the lower."""
    from consilience.report.augment import ASSESSMENTS
    from consilience.tabular.comparison import assess
    from consilience.tabular.simple_generators import cart, independent

    settings = config.model_dump(mode="json", exclude={"workers", "rows", "conditions"})
    version = digest_json([digest_file(config.data), settings, [rows.to_csv() for rows in judged.values()]])
    if not run.finished("assessments", version, ASSESSMENTS):
        with run.stage("assessments", version):
            size, seed = len(train), config.seed
            systems = {"real": train, **judged, "cart": cart(train, schema, size, seed)}
            systems["independent"] = independent(train, schema, size, seed)
            found = {name: assess(train, test, rows, schema, seed).to_json() for name, rows in systems.items()}
            write_json(run / ASSESSMENTS, found)
    return json.loads((run / ASSESSMENTS).read_text(encoding="utf-8"))


def _headline(config: AugmentConfig, found: Mapping[str, Mapping[str, Any]]) -> Summary:
    def utility(system: str) -> float | None:
        figures = found.get(system, {}).get("figures", {})
        return rounded(figures.get("utility_roc_auc", figures.get("utility_r2")))

    own = found[config.method]["figures"]
    sft = "sft" if config.method != "resample" else ""
    return {
        "utility_real": utility("real"),
        "utility_synthetic": utility(config.method),
        "utility_sft": utility(sft),
        "utility_cart": utility("cart"),
        "utility_independent": utility("independent"),
        "discriminator_auc": rounded(own["discriminator_held_out"]),
        "discriminator_auc_train": rounded(own["discriminator_train"]),
        "exact_copies": rounded(own["exact_copies"]),
        "exact_copies_held_out": rounded(own["exact_copies_held_out"]),
        "membership_auc": rounded(own["membership_auc"]),
        "leaks": ", ".join(found[config.method]["leaks"]) or None,
    }


JOB = Job("augment", __doc__, AugmentConfig, plan, execute, inputs=("data", "target", "rows", "method"), show=show)

if __name__ == "__main__":
    sys.exit(main(JOB))
