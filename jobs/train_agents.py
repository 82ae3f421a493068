"""Train agents: one adapter per value on one frozen base, by PPO against that value's classifier.

Agents are trained side by side where the cluster has room, else one after another; a run that is stopped goes on from
its last checkpoint. Base and agents then answer the held-out questions, and their answers are compared by reward, by an
independent judge, by their distance from the base, length and repetition.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator
from rich.table import Table

from consilience.config import Config
from consilience.errors import UserError
from consilience.lm.sources import check_source
from consilience.ppo.settings import LoraSettings, PPOConfig, PPOWorkersConfig, Rollouts
from consilience.runs import Run
from consilience.table_schema import read_table
from consilience.tables import AGENTS, QUESTIONS
from consilience.theories import VALUE_NAMES
from consilience.values.base import BaseConfig
from consilience.values.question_data import (
    QuestionData,
    check_unseen,
    count_splits,
    describe_profiles,
    profile_counts,
)
from consilience.values.split import TEST, TRAIN
from jobs.classifiers import KINDS, by_kind, check_classifiers, classifier_digests, classifier_loaders
from jobs.cli import Job, Summary, console, main
from jobs.question_table import write_questions

OWN_VLLM = ("model", "enable_lora", "max_lora_rank")
"""Arguments of vllm.LLM that are settled by the base and the adapter."""


class TrainAgentsConfig(Config):
    """What the agents are trained on, against which rewards, and how."""

    questions: QuestionData = Field(description="a questions table, MIC.csv, or Moral Stories; see docs/data.md")
    rewards: Path = Field(description="run folder of train_values, whose classifiers are the rewards")
    judge: Path | None = Field(None, description="another run folder of train_values, which the agents never see")
    force_rewards: bool = Field(False, description="use classifiers even where no better than a baseline")
    values: tuple[str, ...] = Field(VALUE_NAMES, min_length=1, description="values that get an agent")
    base: BaseConfig = Field(description="language model that all agents share: source, revision, dtype")
    lora: LoraSettings = Field(default_factory=LoraSettings, description="the adapter of an agent")
    ppo: PPOConfig = Field(default_factory=PPOConfig, description="of each agent's training")
    rollouts: Rollouts = Field("transformers", description="what draws the answers: transformers or vllm")
    vllm: dict[str, Any] = Field(default_factory=dict, description="further arguments of vllm.LLM")
    workers: PPOWorkersConfig = Field(default_factory=PPOWorkersConfig, description="where each agent is trained")
    at_once: int | None = Field(
        None, ge=1, description="agents in training side by side; by default as many as the cluster now has room for"
    )
    reward_gpus: float = Field(0, ge=0, description="GPUs of the actor that hosts all rewards, and of the judge's")
    held_out: int = Field(500, ge=2, description="test questions that are answered, at most")
    seed: int = Field(0, ge=0, description="of the held-out answers and bootstraps; ppo.seed is the training's")

    @field_validator("values")
    @classmethod
    def _known_values(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if value not in VALUE_NAMES:
                raise ValueError(f"unknown value '{value}'; expected some of {', '.join(VALUE_NAMES)}")
        if len(set(values)) < len(values):
            raise ValueError("a value is named twice")
        return values

    @field_validator("vllm")
    @classmethod
    def _arguments_left_open(cls, vllm: dict[str, Any]) -> dict[str, Any]:
        if "trust_remote_code" in vllm:
            raise ValueError("trust_remote_code: a model's own code is never run")
        for name in OWN_VLLM:
            if name in vllm:
                raise ValueError(f"{name}: settled by base and lora; expected other arguments")
        return vllm

    @field_validator("ppo")
    @classmethod
    def _answers_are_scored(cls, ppo: PPOConfig) -> PPOConfig:
        if ppo.reward_on != "response":
            raise ValueError("reward_on: a value's reward scores the answer alone; expected response")
        return ppo

    @model_validator(mode="after")
    def _workers_share_batches(self) -> "TrainAgentsConfig":
        self.ppo.check_workers(self.workers.workers)
        return self

    @property
    def classifiers(self) -> dict[str, Path]:
        """Run folders by what they are here: reward, judge."""
        return by_kind(self.rewards, self.judge)


def plan(config: TrainAgentsConfig) -> list[str]:
    """Check questions, rewards and model source; say what would be trained."""
    splits = count_splits(config.questions)
    for split in (TRAIN, TEST):
        if not splits[split]:
            raise UserError(f"{config.questions.named}: no question of split '{split}'; expected some")
    check_classifiers(config.classifiers, config.values, config.force_rewards)
    check_source(config.base.source, config.base.revision)
    episodes = config.ppo.updates * config.ppo.batch_size
    held_out = min(config.held_out, splits[TEST])
    return [
        f"train agents for {', '.join(config.values)} on {config.base.source}",
        f"  {splits[TRAIN]} questions, {config.ppo.updates} updates of {config.ppo.batch_size} answers each: "
        f"{episodes} answers of up to {config.ppo.sampling.max_new_tokens} tokens per agent",
        f"  compare with the base on {held_out} test questions"
        + ("" if config.judge else "; no independent judge is given"),
    ]


def execute(config: TrainAgentsConfig, run: Run) -> Summary:
    """Train, compare, and write the run folder."""
    # Here, because torch and Ray take seconds to import and a dry run needs none of them.
    from jobs.agent_runs import train_agents

    started = time.monotonic()
    questions = write_questions(config.questions, run)
    folders = config.classifiers
    for folder in folders.values():
        check_unseen(questions, folder)
    loading = classifier_loaders(folders, config.values, config.force_rewards)
    forced = train_agents(config, run, loading, classifier_digests(folders))
    return {**summarise(config, run, forced), "seconds": round(time.monotonic() - started, 3)}


def summarise(config: TrainAgentsConfig, run: Run, forced: Mapping[str, Sequence[str]]) -> Summary:
    """Headline figures; `forced` names, for reward and judge, the values whose classifier was refused and is used."""
    rows = {(row["value"], row["measure"]): row for row in read_table(run / "agents.parquet", AGENTS).to_pylist()}
    summary: Summary = {"agents": len(config.values)}
    summary |= {f"{kind}s_forced": ", ".join(forced.get(kind, ())) or None for kind in KINDS}
    for value in config.values:
        for kind in KINDS:
            row = rows.get((value, kind), {})
            summary |= {f"{kind}_base_{value}": row.get("base"), f"{kind}_agent_{value}": row.get("agent")}
            summary |= {f"{kind}_gain_{value}_{end}": row.get(f"gain_{end}") for end in ("low", "high")}
        summary[f"kl_{value}"] = rows[value, "kl"]["agent"]
    counts = profile_counts(read_table(run / "questions.parquet", QUESTIONS))
    return {**summary, **counts, "held_out_questions": rows[config.values[0], "reward"]["n"]}


def show(folder: Path) -> None:
    """Write the report page and print its table."""
    from consilience.report.value_training import write_agents_report

    page = write_agents_report(folder)
    table = Table(title="Agents beside their base, on held-out questions")
    for name in ("value", "measure", "base", "agent", "gain", "95 % interval", "n"):
        table.add_column(name, justify="left" if name in ("value", "measure") else "right")
    for row in read_table(folder / "agents.parquet", AGENTS).to_pylist():
        figures = [_shown(row[name]) for name in ("base", "agent", "gain")]
        interval = f"{_shown(row['gain_low'])} to {_shown(row['gain_high'])}"
        table.add_row(row["value"], row["measure"], *figures, interval, str(row["n"]))
    console.print(table)
    console.print(describe_profiles(read_table(folder / "questions.parquet", QUESTIONS)), markup=False)
    console.print(f"report: {page}", markup=False, soft_wrap=True)


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"


JOB = Job(
    "train_agents", __doc__, TrainAgentsConfig, plan, execute, inputs=("questions", "rewards", "judge"), show=show
)

if __name__ == "__main__":
    sys.exit(main(JOB))
