"""The pages of trained agents and aggregator: what they show, and that they run nothing."""

from pathlib import Path

import pyarrow as pa
import pytest

from consilience.files import write_json
from consilience.report.value_training import write_agents_report, write_aggregator_report
from consilience.table_schema import conform, write_table
from consilience.tables import AGENTS, ANSWERS, QUESTIONS
from consilience.theories import VALUE_NAMES

MANIFEST = {"started": "2030-01-01T00:00:00+00:00", "code": "1", "config": {"seed": 0}, "notes": ["care: <b>gamed</b>"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {
            "question_id": f"q{k}",
            "text": f"May I take {k}?",
            "split": "test",
            **dict.fromkeys(VALUE_NAMES, 0.0),
            "profile_source": "human",
        }
        for k in range(6)
    ]
    write_table(conform(pa.Table.from_pylist(rows), QUESTIONS, "questions"), tmp_path / "questions.parquet", QUESTIONS)
    return tmp_path


def test_the_page_of_agents(folder: Path) -> None:
    ends = [f"{name}{end}" for name in ("base", "agent", "gain") for end in ("", "_low", "_high")]
    measures = [
        {"value": value, "measure": name, **dict.fromkeys(ends, figure), "n": 6}
        for value, figure in (("care", 0.25), ("loyalty", None))
        for name in ("reward", "kl")
    ]
    write_table(pa.Table.from_pylist(measures, schema=AGENTS.arrow), folder / "agents.parquet", AGENTS)
    said = [
        {"question_id": f"q{k}", "system": system, "text": f"<script>{system} {k}</script>" if k else None}
        for system in ("base", "care", "loyalty")
        for k in range(6)
    ]
    write_table(pa.Table.from_pylist(said), folder / "answers.parquet", ANSWERS)
    write_json(folder / "manifest.json", {"job": "train_agents", **MANIFEST})
    write_json(folder / "summary.json", {"agents": 2, "held_out_questions": 6})
    page = write_agents_report(folder).read_text(encoding="utf-8")
    for told in (
        "the reward rose for 1 of 2", "0.250 to 0.250", "care: &lt;b&gt;gamed", "6 questions: 6 with a profile",
        "May I take 3?", "&lt;script&gt;loyalty 1",
    ):  # fmt: skip
        assert told in page
    assert "<script" not in page
    assert "May I take 4?" not in page


def test_the_page_of_the_aggregator(folder: Path) -> None:
    history = [{"step": 0, "eval_loss": 3.5}, {"step": 1, "loss": 3.4}, {"step": 1, "eval_loss": 2.125}]
    write_json(folder / "manifest.json", {"job": "train_aggregator", "history": history, **MANIFEST})
    summary = {"loss_validation_before": 3.5, "loss_validation": 2.125, "steps": 1, "best_step": 1, "context": "full"}
    write_json(folder / "summary.json", {**summary, "questions_train": 4, "questions_validation": 2})
    page = write_aggregator_report(folder).read_text(encoding="utf-8")
    for told in (
        "validation loss 3.500 before, 2.125 after",
        "from a full context",
        "the adapter of step 1 of 1",
        "<svg",
    ):
        assert told in page
    assert "<script" not in page
    assert page.count("<h2") == 3
