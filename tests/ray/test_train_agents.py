"""Agents and aggregator on a real cluster: trained, stopped by a bad reward, resumed, heard, and taught from."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle
from transformers import LlamaConfig

from actors.cluster import gather
from actors.moral_agent import host
from actors.reward import RemoteReward, start_rewards
from consilience.config import parse_config
from consilience.errors import UserError
from consilience.ppo.policy import LoraSettings, Policy
from consilience.ppo.rewards import call_reward
from consilience.runs import Run
from consilience.table_schema import read_table
from consilience.tables import AGENTS, ANSWERS
from consilience.theories import VALUE_NAMES
from consilience.values.answer_settings import AnswerConfig
from consilience.values.base import BaseConfig, load_own
from consilience.values.saved import read_adapters, save_adapters
from jobs import question_table, train_aggregator
from jobs.agent_runs import train_agents
from jobs.train_agents import TrainAgentsConfig, summarise

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from lm_models import CHAT, save_tiny_model

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

TINY = {"updates": 2, "batch_size": 4, "minibatch_size": 4, "microbatch_size": 4, "generation_batch_size": 4}


def vowels(texts: list[str]) -> list[float]:
    return [sum(letter in "aeiou" for letter in text) / (1 + len(text)) for text in texts]


def broken(texts: list[str]) -> list[float]:
    return [math.nan for _ in texts]


class Twice:
    """A reward for two calls, and then not a number."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, texts: list[str]) -> list[float]:
        self.calls += 1
        return vowels(texts) if self.calls < 2 else broken(texts)


def raising(texts: list[str]) -> list[float]:
    raise RuntimeError("out of ink\nand paper")


def loaders(**rewards: Any) -> dict[str, Any]:
    return {value: (lambda reward=reward: reward) for value, reward in rewards.items()}


def write_questions(path: Path) -> Path:
    splits = ["train"] * 6 + ["validation"] * 2 + ["test"] * 3
    rows = [
        {
            "question_id": f"q{k}",
            "text": f"May I take {k} of them?",
            "split": split,
            "reference": "Yes.",
            **{value: float(value == "care") for value in VALUE_NAMES},
            "profile_source": "human",
        }
        for k, split in enumerate(splits)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))


def test_a_reward_that_goes_wrong_far_away_is_one_line(cluster: None) -> None:
    actor = start_rewards(loaders(care=vowels, fairness=broken, loyalty=raising, sanctity=lambda texts: [1.0]))
    assert gather([actor.load.remote()]) == [dict.fromkeys(("care", "fairness", "loyalty", "sanctity"), False)]
    assert call_reward(RemoteReward(actor, "care"), ["aa", ""]) == [2 / 3, 0]
    for value, message in {
        "fairness": "reward fairness returned nan at position 0; expected a finite number",
        "loyalty": "reward loyalty raised RuntimeError: out of ink",
        "sanctity": "reward sanctity returned 1 scores for 2 texts; expected one each",
    }.items():
        with pytest.raises(UserError, match=message):
            call_reward(RemoteReward(actor, value), ["a", "b"])


def test_agents_are_stopped_resumed_and_heard(cluster: None, tmp_path: Path) -> None:
    base = {"source": save_tiny_model(tmp_path / "base", LlamaConfig, CHAT), "dtype": "float32"}
    raw = {
        "questions": str(write_questions(tmp_path / "questions.jsonl")),
        "rewards": "unused",
        "values": ["care", "fairness"],
        "base": base,
        "lora": {"rank": 4, "alpha": 8},
        "ppo": {**TINY, "learning_rate": 1e-2, "sampling": {"max_new_tokens": 6}},
        "workers": {"checkpoint_every": 1, "max_failures": 0},
    }
    config = parse_config(TrainAgentsConfig, raw, "test")
    folder = tmp_path / "agents"

    def run(care: Any, judge: str = "j", folder: Path = folder) -> Any:
        rewards = {"reward": loaders(care=care, fairness=vowels), "judge": loaders(care=vowels, fairness=vowels)}
        with Run.open(folder, "train_agents", raw) as opened:
            question_table.write_questions(config.questions, opened)
            return summarise(config, opened, train_agents(config, opened, rewards, ["r", judge]))

    with pytest.raises(UserError, match="reward care returned nan at position 0"):
        run(Twice())
    kept = list(folder.glob("training/care-*/checkpoint_*/trainer.json"))
    assert [json.loads(path.read_text())["update"] for path in kept] == [1], "the last checkpoint is kept"

    summary = run(vowels)
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    assert set(stages) == {"questions", "train-care", "train-fairness", "held_out"}
    assert summary["held_out_questions"] == 3
    for value in ("care", "fairness"):
        assert 0 <= summary[f"reward_base_{value}"] <= 1
        assert summary[f"judge_agent_{value}"] == pytest.approx(summary[f"reward_agent_{value}"])
        assert math.isfinite(summary[f"kl_{value}"])
    rows = read_table(folder / "agents.parquet", AGENTS)
    assert rows.num_rows == 2 * 6
    answers = read_table(folder / "answers.parquet", ANSWERS).to_pylist()
    assert {row["system"] for row in answers} == {"base", "care", "fairness"}

    again = run(broken)
    assert again == summary, "nothing was trained or heard again"
    assert run(vowels, folder=tmp_path / "whole") == summary, "stopped and resumed, or trained in one go"
    run(vowels, judge="another")
    after = json.loads((folder / "manifest.json").read_text())["stages"]
    assert after["train-care"] == stages["train-care"]
    assert after["held_out"] != stages["held_out"], "another judge: heard again, not trained again"


def test_an_aggregator_learns_from_hosted_agents(cluster: None, tmp_path: Path) -> None:
    base = BaseConfig(source=save_tiny_model(tmp_path / "base", LlamaConfig, CHAT), dtype="float32")
    loaded = load_own(base)
    Policy(loaded.model, loaded.tokeniser, LoraSettings(rank=4, alpha=8)).save(tmp_path / "care")
    folder = tmp_path / "agents"
    save_adapters(folder, base, {"care": tmp_path / "care", "fairness": tmp_path / "care"}, {})
    data = write_questions(tmp_path / "questions.jsonl")
    saved = read_adapters(folder)
    actors = host(saved, apart=True, num_cpus=0.5)
    assert set(actors) == {"care", "fairness"}
    short = AnswerConfig(max_new_tokens=6)
    replies = gather([actor.answer.remote(["May I?"], [name], short) for name, actor in actors.items()])
    assert replies[0] == replies[1], "one adapter under two names"
    for actor in actors.values():
        ray.kill(actor)

    learn = {
        "data": str(data),
        "agents": str(folder),
        "answers": {"max_new_tokens": 6},
        "hosting": {"batch_size": 6},
        "training": {
            "lora": {"rank": 4, "alpha": 8},
            "learning_rate": 1e-2,
            "steps": 4,
            "batch_size": 4,
            "microbatch_size": 2,
            "evaluate_every": 2,
            "max_tokens": 600,
            "max_answer_tokens": 32,
        },
    }
    settings = parse_config(train_aggregator.TrainAggregatorConfig, learn, "test")
    place = tmp_path / "aggregator"
    assert len(train_aggregator.plan(settings)) == 3
    with Run.open(place, "train_aggregator", learn) as opened:
        found = train_aggregator.execute(settings, opened)
    assert found["steps"] == 4
    assert found["loss_validation"] < found["loss_validation_before"]
    heard = read_table(place / "answers.parquet", ANSWERS)
    assert heard.num_rows == 8 * 2, "all agents answer all questions that teach or stop"
    assert read_adapters(place).about == {"context": "dynamic"}

    parts = sorted(place.glob("parts/*/*.parquet"))
    assert len(parts) == 3
    stamps = {path: path.stat().st_mtime_ns for path in parts[1:]}
    parts[0].unlink()
    (place / "answers.parquet").unlink()
    with Run.open(place, "train_aggregator", learn) as opened:
        assert train_aggregator.execute(settings, opened)["loss_validation"] == found["loss_validation"]
    assert parts[0].exists()
    assert {path: path.stat().st_mtime_ns for path in parts[1:]} == stamps, "parts that were there are not made again"
