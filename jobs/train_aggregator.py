"""Train the aggregator: the agents answer every question, then one more adapter learns to answer from their answers.

The aggregator reads the context (full or dynamic) that a question's moral profile and the agents' answers make, and is
taught the reference answer. It shares the agents' base.
"""

import sys
import time
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from consilience.config import Config
from consilience.errors import UserError
from consilience.files import digest_file, digest_json
from consilience.lm.sources import ADAPTER_WEIGHTS, check_source
from consilience.runs import Run
from consilience.table_schema import read_table
from consilience.tables import QUESTIONS
from consilience.values.aggregator_data import agents_wanted
from consilience.values.answer_settings import AGGREGATOR, AnswerConfig
from consilience.values.context import ContextKind
from consilience.values.question_data import QuestionData, count_splits, describe_profiles, profile_counts
from consilience.values.questions import questions_of
from consilience.values.saved import read_adapters, save_adapters
from consilience.values.sft_settings import SftSettings
from consilience.values.split import TRAIN, VALIDATION
from consilience.workers import WorkersConfig
from jobs.agent_answers import HostingConfig, answer_questions
from jobs.cli import Job, Summary, console, main
from jobs.progress import watching
from jobs.question_table import write_questions


class TrainAggregatorConfig(Config):
    """Which questions and agents the aggregator learns from, and how."""

    data: QuestionData = Field(description="a questions table, MIC.csv, or Moral Stories; those with a reference serve")
    agents: Path = Field(description="run folder of train_agents")
    context: ContextKind = Field("dynamic", description="what the aggregator is told: full or dynamic")
    answers: AnswerConfig = Field(default_factory=AnswerConfig, description="how the agents answer")
    hosting: HostingConfig = Field(default_factory=HostingConfig, description="the actors that host the agents")
    training: SftSettings = Field(default_factory=SftSettings, description="the supervised tuning")
    workers: WorkersConfig = Field(default_factory=WorkersConfig, description="of the tuning")

    @model_validator(mode="after")
    def _workers_share_batches(self) -> "TrainAggregatorConfig":
        self.training.accumulation(self.workers.workers)
        return self


def plan(config: TrainAggregatorConfig) -> list[str]:
    """Check questions, agents and model source; say what would be trained."""
    saved = read_adapters(config.agents)
    splits = count_splits(config.data, with_reference=True)
    for split in (TRAIN, VALIDATION):
        if not splits[split]:
            raise UserError(f"{config.data.named}: no question of split '{split}' with a reference; expected some")
    agents_wanted(config.context, [], list(saved.adapters))
    check_source(saved.base.source, saved.base.revision)
    training = config.training
    return [
        f"train the aggregator on {saved.base.source}, context {config.context}",
        f"  {splits[TRAIN] + splits[VALIDATION]} questions x {len(saved.adapters)} agents to answer: "
        f"{', '.join(saved.adapters)}",
        f"  {splits[TRAIN]} questions to learn from, {splits[VALIDATION]} to stop by, "
        f"at most {training.steps} steps of {training.batch_size}",
    ]


def execute(config: TrainAggregatorConfig, run: Run) -> Summary:
    """Let the agents answer, tune, and write the run folder."""
    # Here, because torch, TRL and Ray take seconds to import and a dry run needs none of them.
    from actors.aggregator_worker import AggregatorPlan, tune_aggregator
    from actors.cluster import connect
    from consilience.values.aggregator import losses

    started = time.monotonic()
    saved = read_adapters(config.agents)
    table = write_questions(config.data, run, _serves)
    questions = questions_of(table)
    agents_wanted(config.context, questions, list(saved.adapters))
    run.record(inputs={**run.manifest["inputs"], str(config.agents): saved.digest()})
    answer_questions(questions, saved, run, config.answers, config.hosting)
    settings = config.model_dump(mode="json", include={"context", "training"})
    fingerprint = digest_json([digest_file(run / "answers.parquet"), digest_file(run / "questions.parquet"), settings])
    if not run.finished("tune", fingerprint, "adapters.json", f"adapters/{AGGREGATOR}/{ADAPTER_WEIGHTS}"):
        with run.stage("tune", fingerprint):
            connect(*config.workers.at_once)
            aggregator = AggregatorPlan(
                saved.base,
                config.context,
                config.training,
                (run / "questions.parquet").absolute(),
                (run / "answers.parquet").absolute(),
            )
            storage = (run / "training").absolute()
            with watching(storage):
                folder, history = tune_aggregator(aggregator, config.workers, storage, f"tune-{fingerprint[:12]}")
            save_adapters(run.folder, saved.base, {AGGREGATOR: folder}, {"context": config.context})
            run.record(losses=losses(history), history=history)
    return {
        **run.manifest["losses"],
        "context": config.context,
        **profile_counts(table),
        "questions_train": sum(q.split == TRAIN for q in questions),
        "questions_validation": sum(q.split == VALIDATION for q in questions),
        "seconds": round(time.monotonic() - started, 3),
    }


def _serves(row: dict[str, Any]) -> bool:
    """Whether a question teaches the aggregator, or tells when it has learnt enough."""
    return row["split"] in (TRAIN, VALIDATION) and row.get("reference") is not None


def show(folder: Path) -> None:
    """Write the report page and print the headline."""
    from consilience.report.value_training import write_aggregator_report

    page = write_aggregator_report(folder)
    console.print((folder / "summary.json").read_text(encoding="utf-8"), markup=False)
    console.print(describe_profiles(read_table(folder / "questions.parquet", QUESTIONS)), markup=False)
    console.print(f"report: {page}", markup=False, soft_wrap=True)


JOB = Job("train_aggregator", __doc__, TrainAggregatorConfig, plan, execute, inputs=("data", "agents"), show=show)

if __name__ == "__main__":
    sys.exit(main(JOB))
