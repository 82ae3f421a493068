"""The evaluation of tiny models on a real cluster: all systems answer, are scored and reported; nothing twice."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from transformers import LlamaConfig

from consilience.config import parse_config
from consilience.errors import UserError
from consilience.ppo.policy import LoraSettings, Policy
from consilience.runs import Run
from consilience.table_schema import conform, read_table, write_table
from consilience.tables import ANSWERS, QUESTIONS
from consilience.theories import VALUE_NAMES
from consilience.values.base import BaseConfig, load_own
from consilience.values.evaluation_tables import EVALUATION
from consilience.values.saved import save_adapters
from jobs import evaluate

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from lm_models import CHAT, save_tiny_model
from test_value_evaluation import question_rows, question_table
from value_models import save_tiny_encoder

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


def vowels(texts: list[str]) -> list[float]:
    return [sum(letter in "aeiou" for letter in text) / (1 + len(text)) for text in texts]


def raising(texts: list[str]) -> list[float]:
    raise RuntimeError("no reward today")


def loaders(reward: Any) -> dict[str, Any]:
    return {value: (lambda: reward) for value in VALUE_NAMES}


def test_an_evaluation_from_end_to_end(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))
    base = BaseConfig(source=save_tiny_model(tmp_path / "base", LlamaConfig, CHAT), dtype="float32")
    loaded = load_own(base)
    Policy(loaded.model, loaded.tokeniser, LoraSettings(rank=4, alpha=8)).save(tmp_path / "adapter")
    table = question_table(question_rows(12))
    seen = [row for row in table.to_pylist() if row["split"] == "train"]
    for name, adapters, about in (
        ("agents", VALUE_NAMES, {}),
        ("full", ["aggregator"], {"context": "full"}),
        ("dynamic", ["aggregator"], {"context": "dynamic"}),
    ):
        save_adapters(tmp_path / name, base, dict.fromkeys(adapters, tmp_path / "adapter"), about)
        write_table(question_table(seen), tmp_path / name / "questions.parquet", QUESTIONS)
    write_table(conform(table, QUESTIONS, "questions"), tmp_path / "questions.parquet", QUESTIONS)
    raw = {
        "data": str(tmp_path / "questions.parquet"),
        "agents": str(tmp_path / "agents"),
        "aggregator": [str(tmp_path / "full"), str(tmp_path / "dynamic")],
        "rewards": "unused",
        "answers": {"max_new_tokens": 5},
        "hosting": {"batch_size": 40},
        "encoder": {"source": save_tiny_encoder(tmp_path / "encoder"), "max_tokens": 32, "layer": 2},
        "shots": 1,
        "flips": 3,
    }
    config = parse_config(evaluate.EvaluateConfig, raw, "test")
    folder = tmp_path / "evaluation"

    def run(reward: Any, digest: str = "r") -> dict[str, Any]:
        with Run.open(folder, "evaluate", raw) as opened:
            summary = evaluate.evaluate(config, opened, {"reward": loaders(reward)}, [digest])
            opened.summarise(summary)
        return summary

    with pytest.raises(UserError, match="reward authority raised RuntimeError: no reward today"):
        run(raising)
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    assert {"answers_alone", "answers_in_context", "answers_flipped"} <= set(stages), "the answers are kept"

    summary = run(vowels)
    after = json.loads((folder / "manifest.json").read_text())["stages"]
    assert {name: after[name] for name in stages} == stages, "nothing was answered again"
    answers = read_table(folder / "answers.parquet", ANSWERS)
    assert answers.num_rows == 6 * (2 + 2 + 2 + 1 + 5) + 3 * 5 * 2
    assert summary["questions"] == summary["questions_with_reference"] == 6
    assert summary["reward_gain_care"] == 0, "a fresh adapter changes nothing"
    assert summary["bertscore_aggregator_full"] == summary["bertscore_base_full"]
    assert summary["win_rate_aggregator_full_over_base_full"] == 0.5
    assert summary["rewards_forced"] is None
    for schema in EVALUATION:
        assert read_table(folder / f"{schema.name}.parquet", schema).num_rows
    evaluate.show(folder)
    assert (folder / "report.html").exists()

    part = min(folder.glob("parts/*/*.parquet"))
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("parts/*/*.parquet") if path != part}
    part.unlink()
    assert {**run(raising), "seconds": 0} == {**summary, "seconds": 0}, "neither answered nor scored again"
    assert part.exists()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    with pytest.raises(UserError, match="reward"):
        run(raising, digest="another")

    rows = [{**row, "split": "train"} for row in table.to_pylist()]
    write_table(question_table(rows), tmp_path / "full/questions.parquet", QUESTIONS)
    with pytest.raises(UserError, match=r"question q0: in split 'test', but .*full was trained on it"):
        run(vowels)
