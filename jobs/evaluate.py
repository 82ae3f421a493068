"""Evaluate values: agents and aggregators beside their base and beside prompting, on held-out questions.

Expected reward of base and agents; BERTScore and ROUGE of all methods against the reference answers; who wins against
whom; what flipping one value of a profile does; and whether an aggregator's reward falls below all of its agents'.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator

from consilience.config import Config
from consilience.errors import UserError
from consilience.lm.sources import check_source
from consilience.runs import Run
from consilience.table_schema import read_table
from consilience.tables import AGENTS
from consilience.values.about import forced_notes
from consilience.values.aggregator_data import agents_wanted
from consilience.values.answer_settings import AnswerConfig
from consilience.values.evaluation_settings import ScoreEncoder
from consilience.values.evaluation_summary import headline, tabulate
from consilience.values.evaluation_tables import AGENT_GAINS, EVALUATION
from consilience.values.question_data import (
    QuestionData,
    check_unseen,
    count_splits,
    describe_profiles,
    profile_counts,
)
from consilience.values.questions import questions_of
from consilience.values.split import TEST, TRAIN
from consilience.values.systems import compared
from jobs.agent_answers import HostingConfig
from jobs.classifiers import by_kind, check_classifiers, classifier_digests, classifier_loaders
from jobs.cli import Job, Summary, console, main
from jobs.question_table import write_questions
from jobs.run_tables import write_rows
from jobs.system_answers import answer_all, check_held_out, read_systems
from jobs.system_scores import score_all


class EvaluateConfig(Config):
    """What is evaluated, on which questions, by which measures."""

    data: QuestionData = Field(description="questions as train_aggregator had them; split test is answered")
    agents: Path = Field(description="run folder of train_agents")
    aggregator: tuple[Path, ...] = Field(min_length=1, description="run folders of train_aggregator, one per context")
    rewards: Path = Field(description="run folder of train_values, whose classifiers the agents were trained against")
    judge: Path | None = Field(None, description="another run folder of train_values, which the agents never saw")
    force_rewards: bool = Field(False, description="use classifiers even where no better than a baseline")
    answers: AnswerConfig = Field(default_factory=AnswerConfig, description="how every system answers")
    hosting: HostingConfig = Field(default_factory=HostingConfig, description="the actors that answer")
    reward_gpus: float = Field(0, ge=0, description="GPUs of each actor and task that scores answers")
    encoder: ScoreEncoder = Field(default_factory=ScoreEncoder, description="what BERTScore rests on")
    shots: int = Field(5, ge=1, description="examples per value that is asked for, in few-shot prompting")
    flips: int = Field(200, ge=1, description="questions whose profile is flipped, one value at a time, at most")
    seed: int = Field(0, ge=0, description="of bootstraps and of what is drawn")

    @field_validator("aggregator", mode="before")
    @classmethod
    def _one_run(cls, given: Any) -> Any:
        return [given] if isinstance(given, str | Path) else given

    @property
    def classifiers(self) -> dict[str, Path]:
        """Run folders by what they are here: reward, judge."""
        return by_kind(self.rewards, self.judge)


def plan(config: EvaluateConfig) -> list[str]:
    """Check questions, runs and model sources; say what would be done."""
    agents, aggregators = read_systems(config.agents, config.aggregator)
    splits = count_splits(config.data)
    if not count_splits(config.data, with_reference=True)[TEST]:
        raise UserError(f"{config.data.named}: no question of split '{TEST}' with a reference; expected some")
    check_classifiers(config.classifiers, list(agents.adapters), config.force_rewards)
    check_source(agents.base.source, agents.base.revision)
    check_source(config.encoder.source, config.encoder.revision)
    systems = compared(list(agents.adapters), list(aggregators))
    flips = min(config.flips, splits[TEST]) * len(agents.adapters) * len(aggregators)
    return [
        f"evaluate on {splits[TEST]} test questions: {', '.join(systems)}",
        f"  {splits[TEST] * len(systems) + flips} answers of up to {config.answers.max_new_tokens} tokens by "
        f"{agents.base.source}, {flips} of them to flipped profiles",
        f"  BERTScore by {config.encoder.shown}" + ("" if config.judge else "; no independent judge is given"),
    ]


def execute(config: EvaluateConfig, run: Run) -> Summary:
    """Let all systems answer, score, and write the run folder."""
    names = list(read_systems(config.agents, config.aggregator)[0].adapters)
    questions = write_questions(config.data, run, _serves)
    folders = config.classifiers
    for folder in folders.values():
        check_unseen(questions, folder)
    return evaluate(config, run, classifier_loaders(folders, names, config.force_rewards), classifier_digests(folders))


def _serves(row: dict[str, Any]) -> bool:
    """Whether a question is answered, or may be an example in a prompt."""
    return row["split"] == TEST or (row["split"] == TRAIN and row.get("reference") is not None)


def evaluate(
    config: EvaluateConfig, run: Run, loaders: Mapping[str, Mapping[str, Any]], digests: Sequence[str]
) -> Summary:
    """Answer, score, report.

    Args:
        loaders: "reward" and perhaps "judge" to value to what loads it.
        digests: of what they load.
    """
    started = time.monotonic()
    agents, aggregators = read_systems(config.agents, config.aggregator)
    names, contexts = list(agents.adapters), list(aggregators)
    table = write_questions(config.data, run, _serves)
    held_out = table.filter(pa.array([split == TEST for split in table.column("split").to_pylist()]))
    test = questions_of(held_out)
    for context in contexts:
        agents_wanted(context, test, names)
    shared = check_held_out(test, [config.agents, *config.aggregator])
    folders = {str(config.agents): agents.digest()}
    folders |= {
        str(folder): each.digest() for folder, each in zip(config.aggregator, aggregators.values(), strict=True)
    }
    classifiers = dict(zip(loaders, digests, strict=True))
    run.record(inputs={**run.manifest["inputs"], **folders, **classifiers})
    answers = answer_all(
        agents,
        aggregators,
        questions_of(table),
        run,
        config.answers,
        config.hosting,
        config.shots,
        config.flips,
        config.seed,
    )
    scores, measures = score_all(
        held_out,
        answers,
        names,
        contexts,
        loaders,
        digests,
        config.encoder,
        config.force_rewards,
        config.reward_gpus,
        run,
    )
    tables = tabulate(held_out, scores, measures, names, contexts, config.seed)
    tables[AGENT_GAINS.name] += _distances(config.agents)
    for schema in EVALUATION:
        write_rows(tables[schema.name], run, schema)
    forced = run.manifest["forced"]
    run.record(notes=[describe_profiles(held_out), *forced_notes(forced), *_shared(shared, len(test))])
    return {
        **profile_counts(held_out),
        "questions_with_reference": sum(question.reference is not None for question in test),
        "bertscore_encoder": config.encoder.shown,
        **{f"{kind}s_forced": ", ".join(values) or None for kind, values in forced.items()},
        **headline(tables, contexts),
        "seconds": round(time.monotonic() - started, 3),
    }


def _distances(agents: Path) -> list[dict[str, Any]]:
    """How far each agent has gone from the base, as `train_agents` measured it on answers of its own."""
    path = agents / "agents.parquet"
    rows = read_table(path, AGENTS).to_pylist() if path.exists() else []
    return [row for row in rows if row["measure"] == "kl"]


def _shared(shared: int, questions: int) -> list[str]:
    return (
        [f"{shared} of {questions} test questions have the words of a question that was trained on"] if shared else []
    )


def show(folder: Path) -> None:
    """Write the report page and print its tables."""
    from consilience.report.value_evaluation import print_evaluation, write_report

    write_report(folder)
    print_evaluation(folder, console)


JOB = Job(
    "evaluate",
    __doc__,
    EvaluateConfig,
    plan,
    execute,
    inputs=("data", "agents", "aggregator", "rewards", "judge"),
    show=show,
)

if __name__ == "__main__":
    sys.exit(main(JOB))
