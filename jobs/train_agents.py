"""Train agents: one adapter per value on one frozen base, by PPO against that value's classifier.

Agents are trained side by side where the cluster has room, else one after another; a run that is stopped goes on from
its last checkpoint. Base and agents then answer the held-out questions, and their answers are compared by reward, by an
independent judge, by their distance from the base, length and repetition.
"""

import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator
from rich.table import Table

from actors.agent_worker import hear_agent, train_agent
from actors.cluster import connect, gather
from actors.ppo_worker import PPOWorkersConfig
from actors.reward import RemoteReward, start_rewards
from consilience.config import Config
from consilience.errors import UserError
from consilience.files import digest_file, digest_json
from consilience.lm.sources import check_source
from consilience.ppo.policy import LoraSettings
from consilience.ppo.rewards import call_reward
from consilience.ppo.trainer import PPOConfig
from consilience.runs import Run, read_manifest
from consilience.tables import AGENTS, ANSWERS, QUESTIONS, read_table, write_table
from consilience.theories import VALUE_NAMES
from consilience.values.agent_training import AgentPlan, Heard, Rollouts
from consilience.values.agents import BASE
from consilience.values.base import BaseConfig, base_digest
from consilience.values.held_out import compare, suspicions
from consilience.values.questions import TEST, TRAIN, questions_of, read_questions
from consilience.values.saved import save_adapters
from jobs.cli import Job, Summary, console, main

_KINDS = ("reward", "judge")


class TrainAgentsConfig(Config):
    """What the agents are trained on, against which rewards, and how."""

    questions: Path = Field(description="questions table, or MIC.csv; trains on split train, compares on split test")
    rewards: Path = Field(description="run folder of train_values, whose classifiers are the rewards")
    judge: Path | None = Field(None, description="another run folder of train_values, which the agents never see")
    force_rewards: bool = Field(False, description="use classifiers even where no better than a baseline")
    values: tuple[str, ...] = Field(VALUE_NAMES, min_length=1, description="values that get an agent")
    base: BaseConfig
    lora: LoraSettings = Field(default_factory=LoraSettings)
    ppo: PPOConfig = Field(default_factory=PPOConfig)
    rollouts: Rollouts = Field("transformers", description="what draws the answers: transformers or vllm")
    vllm: dict[str, Any] = Field(default_factory=dict, description="further arguments of vllm.LLM")
    workers: PPOWorkersConfig = Field(default_factory=PPOWorkersConfig, description="of each agent's training")
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

    @field_validator("ppo")
    @classmethod
    def _answers_are_scored(cls, ppo: PPOConfig) -> PPOConfig:
        if ppo.reward_on != "response":
            raise ValueError("reward_on: a value's reward scores the answer alone; expected response")
        return ppo


def plan(config: TrainAgentsConfig) -> list[str]:
    """Check questions, rewards and model source; say what would be trained."""
    splits = read_questions(config.questions).column("split").to_pylist()
    for split in (TRAIN, TEST):
        if split not in splits:
            raise UserError(f"{config.questions}: no question of split '{split}'; expected some")
    for folder in filter(None, (config.rewards, config.judge)):
        if (job := read_manifest(folder)["job"]) != "train_values":
            raise UserError(f"{folder}: a run of job '{job}'; expected a run of train_values")
    if config.judge is not None and config.judge.resolve() == config.rewards.resolve():
        raise UserError(f"judge {config.judge}: the run that gives the rewards; expected another, which is independent")
    check_source(config.base.source, config.base.revision)
    episodes = config.ppo.updates * config.ppo.batch_size
    held_out = min(config.held_out, splits.count(TEST))
    return [
        f"train agents for {', '.join(config.values)} on {config.base.source}",
        f"  {splits.count(TRAIN)} questions, {config.ppo.updates} updates of {config.ppo.batch_size} answers each: "
        f"{episodes} answers of up to {config.ppo.sampling.max_new_tokens} tokens per agent",
        f"  compare with the base on {held_out} test questions"
        + ("" if config.judge else "; no independent judge is given"),
    ]


def execute(config: TrainAgentsConfig, run: Run) -> Summary:
    """Train, compare, and write the run folder."""
    # Here, because a dry run needs no classifier.
    from consilience.values.reward import load_reward

    folders = {"reward": config.rewards, **({"judge": config.judge} if config.judge else {})}
    loaders = {
        kind: {value: partial(load_reward, folder.absolute(), value, config.force_rewards) for value in config.values}
        for kind, folder in folders.items()
    }
    digests = [digest_file(folder / "manifest.json") for folder in folders.values()]
    return train_agents(config, run, loaders, digests)


def train_agents(
    config: TrainAgentsConfig, run: Run, loaders: Mapping[str, Mapping[str, Any]], digests: list[str]
) -> Summary:
    """Train and compare.

    Args:
        loaders: "reward" and perhaps "judge" to value to what loads it.
        digests: of the rewards, then of the judge.
    """
    started = time.monotonic()
    questions = read_questions(config.questions)
    write_table(questions, run / "questions.parquet", QUESTIONS)
    digest = digest_file(run / "questions.parquet")
    run.record(inputs={str(config.questions): digest})
    connect()
    actors = {kind: start_rewards(each, config.reward_gpus) for kind, each in loaders.items()}
    loaded = gather([actor.load.remote() for actor in actors.values()])
    forced = sorted({value for found in loaded for value in found if found[value]})
    agents = AgentPlan(config.base, config.lora, config.ppo, config.rollouts, config.vllm)
    asked = questions_of(questions)
    settings = config.model_dump(mode="json", include={"lora", "ppo", "rollouts", "vllm", "force_rewards"})
    trained = digest_json([digest, digests[0], base_digest(config.base), settings])
    train = [question.text for question in asked if question.split == TRAIN]
    checkpoints = _train(config, run, agents, train, actors["reward"], trained)
    save_adapters(run.folder, config.base, checkpoints, {"values": list(config.values)})
    test = [(q.question_id, q.text) for q in asked if q.split == TEST][: config.held_out]
    heard = digest_json([trained, digests, config.values, config.held_out, config.seed])
    if not run.finished("held_out", heard, "agents.parquet", "answers.parquet"):
        with run.stage("held_out", heard):
            _compare(config, run, agents, test, checkpoints, actors)
    return _summarise(config, run, forced, time.monotonic() - started)


def _train(
    config: TrainAgentsConfig, run: Run, agents: AgentPlan, questions: list[str], actor: Any, fingerprint: str
) -> dict[str, Path]:
    """The last checkpoint of every value's agent, trained now or before."""
    done = {
        value: Path(place)
        for value, place in run.manifest.get("checkpoints", {}).items()
        if run.finished(f"train-{value}", fingerprint, f"{place}/adapter_model.safetensors")
    }
    storage = (run / "training").absolute()
    running = {
        value: train_agent.remote(
            agents, questions, RemoteReward(actor, value), config.workers, storage, f"{value}-{fingerprint[:12]}"
        )
        for value in config.values
        if value not in done
    }
    for value, result in running.items():
        with run.stage(f"train-{value}", fingerprint):
            (checkpoint,) = gather([result])
            done[value] = checkpoint.relative_to(run.folder.absolute())
            run.record(checkpoints={**run.manifest.get("checkpoints", {}), value: str(done[value])})
        print(f"agent for {value}: trained", file=sys.stderr, flush=True)
    return {value: run / str(done[value]) for value in config.values}


def _compare(
    config: TrainAgentsConfig,
    run: Run,
    agents: AgentPlan,
    test: list[tuple[str, str]],
    checkpoints: Mapping[str, Path],
    actors: Mapping[str, Any],
) -> None:
    """Hear base and agents on the test questions; write their answers and the table of measures."""
    texts = [text for _, text in test]
    hear = hear_agent.options(num_cpus=config.workers.num_cpus, num_gpus=config.workers.num_gpus)
    places = {BASE: None, **{value: folder.absolute() for value, folder in checkpoints.items()}}
    heard = dict(
        zip(places, gather([hear.remote(agents, texts, p, config.seed) for p in places.values()]), strict=True)
    )
    scores = {
        (kind, value, system): np.array(call_reward(RemoteReward(actor, value), heard[system].texts))
        for kind, actor in actors.items()
        for value in config.values
        for system in (BASE, value)
    }
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for value in config.values:
        pairs = {kind: (scores[kind, value, BASE], scores[kind, value, value]) for kind in actors}
        pairs |= {name: _pair(heard, value, name) for name in ("kl", "length", "ended", "repetition")}
        found = {name: compare(base, agent, config.seed) for name, (base, agent) in pairs.items()}
        rows += [{"value": value, "measure": name, **row} for name, row in found.items()]
        notes += suspicions(value, found)
    write_table(pa.Table.from_pylist(rows, schema=AGENTS.arrow), run / "agents.parquet", AGENTS)
    answers = [
        {
            "question_id": question,
            "system": system,
            "text": text or None,
            "value": None if system == BASE else system,
            "reward": None if system == BASE else float(scores["reward", system, system][place]),
        }
        for system, each in heard.items()
        for place, ((question, _), text) in enumerate(zip(test, each.texts, strict=True))
    ]
    write_table(pa.Table.from_pylist(answers, schema=ANSWERS.arrow), run / "answers.parquet", ANSWERS)
    run.record(notes=notes)
    for note in notes:
        print(note, file=sys.stderr)


def _pair(heard: Mapping[str, Heard], value: str, name: str) -> tuple[Any, Any]:
    return getattr(heard[BASE], name), getattr(heard[value], name)


def _summarise(config: TrainAgentsConfig, run: Run, forced: list[str], seconds: float) -> Summary:
    rows = {(row["value"], row["measure"]): row for row in read_table(run / "agents.parquet", AGENTS).to_pylist()}
    summary: Summary = {"agents": len(config.values), "rewards_forced": ", ".join(forced) or None}
    for value in config.values:
        for kind in _KINDS:
            row = rows.get((value, kind), {})
            summary |= {f"{kind}_base_{value}": row.get("base"), f"{kind}_agent_{value}": row.get("agent")}
            summary |= {f"{kind}_gain_{value}_{end}": row.get(f"gain_{end}") for end in ("low", "high")}
        summary[f"kl_{value}"] = rows[value, "kl"]["agent"]
    return {**summary, "held_out_questions": rows[config.values[0], "reward"]["n"], "seconds": round(seconds, 3)}


def show(folder: Path) -> None:
    """Print the table of measures."""
    table = Table(title="Agents beside their base, on held-out questions")
    for name in ("value", "measure", "base", "agent", "gain", "95 % interval", "n"):
        table.add_column(name, justify="left" if name in ("value", "measure") else "right")
    for row in read_table(folder / "agents.parquet", AGENTS).to_pylist():
        figures = [_shown(row[name]) for name in ("base", "agent", "gain")]
        interval = f"{_shown(row['gain_low'])} to {_shown(row['gain_high'])}"
        table.add_row(row["value"], row["measure"], *figures, interval, str(row["n"]))
    console.print(table)


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"


JOB = Job(
    "train_agents", __doc__, TrainAgentsConfig, plan, execute, inputs=("questions", "rewards", "judge"), show=show
)

if __name__ == "__main__":
    sys.exit(main(JOB))
