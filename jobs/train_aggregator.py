"""Train the aggregator: the agents answer every question, then one more adapter learns to answer from their answers.

The aggregator reads the context (full or dynamic) that a question's moral profile and the agents' answers make, and is
taught the reference answer. It shares the agents' base.
"""

import sys
import time
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from actors.aggregator_worker import AggregatorPlan, tune_aggregator
from actors.cluster import connect
from consilience.config import Config
from consilience.errors import UserError
from consilience.files import digest_file, digest_json
from consilience.lm.sources import check_source
from consilience.runs import Run
from consilience.tables import QUESTIONS, write_table
from consilience.values.agents import AnswerConfig
from consilience.values.aggregator import AGGREGATOR, losses
from consilience.values.aggregator_data import agents_wanted, by_question
from consilience.values.context import ContextKind
from consilience.values.questions import TRAIN, VALIDATION, Question, questions_of, read_questions
from consilience.values.saved import SavedAdapters, read_adapters, save_adapters
from consilience.values.sft_settings import SftSettings
from consilience.workers import WorkersConfig
from jobs.agent_answers import HostingConfig, answer_questions
from jobs.cli import Job, Summary, console, main


class TrainAggregatorConfig(Config):
    """Which questions and agents the aggregator learns from, and how."""

    data: Path = Field(description="questions table, or MIC.csv; trains on split train, stops by split validation")
    agents: Path = Field(description="run folder of train_agents")
    context: ContextKind = Field("dynamic", description="what the aggregator is told: full or dynamic")
    answers: AnswerConfig = Field(default_factory=AnswerConfig, description="how the agents answer")
    hosting: HostingConfig = Field(default_factory=HostingConfig, description="the actors that host the agents")
    training: SftSettings = Field(default_factory=SftSettings, description="the supervised tuning")
    workers: WorkersConfig = Field(default_factory=WorkersConfig, description="of the tuning")


def plan(config: TrainAggregatorConfig) -> list[str]:
    """Check questions, agents and model source; say what would be trained."""
    saved, train, validation = _inputs(config)
    check_source(saved.base.source, saved.base.revision)
    training = config.training
    return [
        f"train the aggregator on {saved.base.source}, context {config.context}",
        f"  {len(train) + len(validation)} questions x {len(saved.adapters)} agents to answer: "
        f"{', '.join(saved.adapters)}",
        f"  {len(train)} questions to learn from, {len(validation)} to stop by, at most {training.steps} steps of "
        f"{training.batch_size}",
    ]


def _inputs(config: TrainAggregatorConfig) -> tuple[SavedAdapters, list[Question], list[Question]]:
    """The agents, and the questions with a reference of the two splits."""
    saved = read_adapters(config.agents)
    questions = [question for question in questions_of(read_questions(config.data)) if question.reference is not None]
    train, validation = ([q for q in questions if q.split == split] for split in (TRAIN, VALIDATION))
    for split, part in ((TRAIN, train), (VALIDATION, validation)):
        if not part:
            raise UserError(f"{config.data}: no question of split '{split}' with a reference; expected some")
        agents_wanted(config.context, part, list(saved.adapters))
    return saved, train, validation


def execute(config: TrainAggregatorConfig, run: Run) -> Summary:
    """Let the agents answer, tune, and write the run folder."""
    started = time.monotonic()
    saved, train, validation = _inputs(config)
    table = read_questions(config.data)
    used = {question.question_id for question in (*train, *validation)}
    kept = table.filter(pa.array([name in used for name in table.column("question_id").to_pylist()]))
    write_table(kept, run / "questions.parquet", QUESTIONS)
    run.record(inputs={str(config.data): digest_file(config.data), str(config.agents): saved.digest()})
    answers = answer_questions(saved, run, config.answers, config.hosting)
    settings = config.model_dump(mode="json", include={"context", "training"})
    fingerprint = digest_json([digest_file(run / "answers.parquet"), digest_file(run / "questions.parquet"), settings])
    if not run.finished("tune", fingerprint, "adapters.json"):
        with run.stage("tune", fingerprint):
            connect()
            aggregator = AggregatorPlan(
                saved.base, config.context, config.training, train, validation, by_question(answers)
            )
            storage = (run / "training").absolute()
            folder, history = tune_aggregator(aggregator, config.workers, storage, f"tune-{fingerprint[:12]}")
            save_adapters(run.folder, saved.base, {AGGREGATOR: folder}, {"context": config.context})
            run.record(losses=losses(history), history=history)
    return {
        **run.manifest["losses"],
        "context": config.context,
        "questions_train": len(train),
        "questions_validation": len(validation),
        "seconds": round(time.monotonic() - started, 3),
    }


def show(folder: Path) -> None:
    """Print the headline."""
    console.print((folder / "summary.json").read_text(encoding="utf-8"), markup=False)


JOB = Job("train_aggregator", __doc__, TrainAggregatorConfig, plan, execute, inputs=("data", "agents"), show=show)

if __name__ == "__main__":
    sys.exit(main(JOB))
