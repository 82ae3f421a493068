"""Agents trained against their rewards and heard beside the base: what a run of train_agents does on the cluster."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray

from actors.agent_worker import hear_agents, train_agent
from actors.cluster import connect, gather
from actors.reward import RemoteReward, start_rewards
from consilience.files import digest_file, digest_json
from consilience.lm.sources import ADAPTER_WEIGHTS
from consilience.ppo.rewards import call_reward
from consilience.runs import Run
from consilience.table_schema import read_table
from consilience.tables import AGENTS, ANSWERS, QUESTIONS
from consilience.values.about import forced_notes
from consilience.values.agent_training import AgentPlan, Heard
from consilience.values.answer_settings import BASE
from consilience.values.base import base_digest
from consilience.values.evaluation import Slice
from consilience.values.examples import ALL
from consilience.values.held_out import compare, suspicions
from consilience.values.question_data import by_digest
from consilience.values.questions import questions_of, situations_of
from consilience.values.saved import save_adapters
from consilience.values.split import TEST, TRAIN
from jobs.progress import watching
from jobs.reporting import say
from jobs.run_tables import write_rows

if TYPE_CHECKING:
    from jobs.train_agents import TrainAgentsConfig


def train_agents(
    config: "TrainAgentsConfig", run: Run, loaders: Mapping[str, Mapping[str, Any]], digests: list[str]
) -> dict[str, list[str]]:
    """Train on the questions of the run folder, and compare.

    Args:
        loaders: "reward" and perhaps "judge" to value to what loads it.
        digests: of the rewards, then of the judge.

    Returns:
        reward and judge to the values whose classifier was refused as a reward and is used all the same.
    """
    digest = digest_file(run / "questions.parquet")
    cpus, gpus = config.workers.at_once
    connect(cpus, gpus + len(loaders) * config.reward_gpus)
    actors = {kind: start_rewards(each, config.reward_gpus) for kind, each in loaders.items()}
    loaded = dict(zip(actors, gather([actor.load.remote() for actor in actors.values()]), strict=True))
    forced = {kind: sorted(value for value, is_forced in each.items() if is_forced) for kind, each in loaded.items()}
    agents = AgentPlan(config.base, config.lora, config.ppo, config.rollouts, config.vllm)
    table = read_table(run / "questions.parquet", QUESTIONS)
    asked = questions_of(table)
    settings = config.model_dump(mode="json", include={"lora", "ppo", "rollouts", "vllm", "force_rewards"})
    trained = digest_json([digest, digests[0], base_digest(config.base), settings])
    train = [question.text for question in asked if question.split == TRAIN]
    with watching(run / "training"):
        checkpoints = _train(config, run, agents, train, actors["reward"], trained)
    save_adapters(run.folder, config.base, checkpoints, {"values": list(config.values)})
    drawn = set(by_digest(q.question_id for q in asked if q.split == TEST)[: config.held_out])
    test = table.filter(pa.array([q.question_id in drawn for q in asked]))
    heard = digest_json([trained, digests, config.values, config.held_out, config.seed])
    if not run.finished("held_out", heard, "agents.parquet", "answers.parquet"):
        with run.stage("held_out", heard):
            _compare(config, run, agents, test, checkpoints, actors, forced)
    return forced


def _train(
    config: "TrainAgentsConfig", run: Run, agents: AgentPlan, questions: list[str], actor: Any, fingerprint: str
) -> dict[str, Path]:
    """The last checkpoint of every value's agent, trained now or before."""
    done = {
        value: Path(place)
        for value, place in run.manifest.get("checkpoints", {}).items()
        if run.finished(f"train-{value}", fingerprint, f"{place}/{ADAPTER_WEIGHTS}")
    }
    storage = (run / "training").absolute()
    waiting = [value for value in config.values if value not in done]
    running: dict[Any, tuple[str, ExitStack]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < _room(config):
                value = waiting.pop(0)
                stage = ExitStack()
                stage.enter_context(run.stage(f"train-{value}", fingerprint))
                reward, name = RemoteReward(actor, value), f"{value}-{fingerprint[:12]}"
                result = train_agent.remote(agents, questions, reward, config.workers, storage, name)
                running[result] = (value, stage)
            (result,), _ = ray.wait(list(running))
            value, stage = running.pop(result)
            (checkpoint,) = gather([result])
            done[value] = checkpoint.relative_to(run.folder.absolute())
            run.record(checkpoints={**run.manifest.get("checkpoints", {}), value: str(done[value])})
            stage.close()
            say(f"agent for {value}: trained")
    finally:
        for result in running:  # one of them failed; the others go on from their checkpoints when the job is resumed
            ray.cancel(result, force=True)
    return {value: run / str(done[value]) for value in config.values}


def _room(config: "TrainAgentsConfig") -> int:
    """How many agents are trained or heard at once."""
    if config.at_once is not None:
        return config.at_once
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    needs = dict(zip(("CPU", "GPU"), config.workers.at_once, strict=True))
    return max(1, min(int(cluster.get(kind, 0) // need) for kind, need in needs.items() if need))


def _compare(
    config: "TrainAgentsConfig",
    run: Run,
    agents: AgentPlan,
    test: pa.Table,
    checkpoints: Mapping[str, Path],
    actors: Mapping[str, Any],
    forced: Mapping[str, list[str]],
) -> None:
    """Hear base and agents on the test questions; write their answers and the table of measures."""
    names, texts = (test.column(column).to_pylist() for column in ("question_id", "text"))
    hear = hear_agents.options(num_cpus=config.workers.num_cpus, num_gpus=config.workers.num_gpus)
    adapters = {BASE: None, **{value: folder.absolute() for value, folder in checkpoints.items()}}
    room = _room(config)
    shares = [dict(list(adapters.items())[first::room]) for first in range(min(room, len(adapters)))]
    answered = gather([hear.remote(agents, texts, share, config.seed) for share in shares])
    heard: dict[str, Heard] = {name: share[name] for name in adapters for share in answered if name in share}
    scores = {
        (kind, value, system): np.array(call_reward(RemoteReward(actor, value), heard[system].texts))
        for kind, actor in actors.items()
        for value in config.values
        for system in (BASE, value)
    }
    rows: list[dict[str, Any]] = []
    notes = forced_notes(forced)
    whole = Slice(ALL, np.ones(len(texts), dtype=bool), situations_of(test), config.seed)
    for value in config.values:
        pairs = {kind: (scores[kind, value, BASE], scores[kind, value, value]) for kind in actors}
        pairs |= {name: _pair(heard, value, name) for name in ("kl", "length", "ended", "repetition")}
        found = {name: compare(whole, base, agent) for name, (base, agent) in pairs.items()}
        rows += [{"value": value, "measure": name, **row} for name, row in found.items()]
        notes += suspicions(value, found)
    write_rows(rows, run, AGENTS)
    answers = [
        {
            "question_id": question,
            "system": system,
            "text": text or None,
            "value": None if system == BASE else system,
            "reward": None if system == BASE else float(scores["reward", system, system][place]),
        }
        for system, each in heard.items()
        for place, (question, text) in enumerate(zip(names, each.texts, strict=True))
    ]
    write_rows(answers, run, ANSWERS)
    run.record(notes=notes)
    for note in notes:
        say(note)


def _pair(heard: Mapping[str, Heard], value: str, name: str) -> tuple[Any, Any]:
    return getattr(heard[BASE], name), getattr(heard[value], name)
