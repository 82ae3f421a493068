"""The evaluate job's dry run: what it says, and every mistake in one line."""

import json
from pathlib import Path

import pytest
from value_runs import question_rows, reward_run

from consilience.files import write_json
from consilience.theories import VALUE_NAMES
from jobs.cli import main
from jobs.evaluate import JOB

AGENTS = sorted(VALUE_NAMES)


def saved(folder: Path, adapters: list[str], **about: object) -> Path:
    folder.mkdir()
    facts = {
        "base": {"source": str(folder.parent)},
        "base_digest": "d",
        "adapters": dict.fromkeys(adapters, ""),
        "about": about,
    }
    write_json(folder / "adapters.json", facts)
    return folder


@pytest.fixture
def line(tmp_path: Path) -> list[str]:
    """A dry run in which nothing is wrong."""
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in question_rows()))
    reward_run(tmp_path / "values")
    agents = saved(tmp_path / "agents", AGENTS)
    aggregator = saved(tmp_path / "aggregator", ["aggregator"], context="dynamic")
    flags = {"data": data, "agents": agents, "aggregator": aggregator, "rewards": tmp_path / "values"}
    sources = ["--set", f"encoder.source={tmp_path}", "--dry-run"]
    return [part for name, value in flags.items() for part in (f"--{name}", str(value))] + sources


def test_a_dry_run_says_what_would_be_done(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(JOB, line) == 0
    said = capsys.readouterr().out
    assert "evaluate on 3 test questions: aggregator_dynamic, base_dynamic, prompted, few_shot, base, authority" in said
    assert f"{3 * 10 + 3 * 5} answers of up to 64 tokens" in said
    assert "15 of them to flipped profiles" in said
    assert "layer 6; no independent judge is given" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--set", "aggregator=[{0}/aggregator, {0}/aggregator]"],
            "a second one of context 'dynamic'; expected one of",
        ),
        (["--aggregator", "{0}/agents"], "not an aggregator; expected a run of train_aggregator"),
        (["--aggregator", "{0}/other"], "tuned on another base than the agents of"),
        (["--agents", "{0}"], "expected a finished run of train_agents or train_aggregator"),
        (
            ["--agents", "{0}/few", "--aggregator", "{0}/full"],
            "agents: none for authority, fairness, loyalty, sanctity",
        ),
        (["--rewards", "{0}/agents"], "not a run folder"),
        (
            ["--rewards", "{0}/weak"],
            "weak: the loyalty classifier is refused as a reward: too weak; force_rewards uses it anyway",
        ),
        (
            ["--judge", "{0}/weak"],
            "weak: the loyalty classifier is refused as a reward: too weak; force_rewards uses it anyway",
        ),
        (["--judge", "{0}/values"], "the run that gives the rewards; expected another"),
        (["--set", "encoder.source=nowhere"], "model source 'nowhere': no such folder"),
        (["--set", "aggregator=[]"], "key 'aggregator'"),
        (["--set", "encoder.layers=3"], "unknown key 'encoder.layers'"),
        (["--data", "{0}/train.jsonl"], "no question of split 'test' with a reference; expected some"),
    ],
)
def test_mistakes_are_one_line(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    reward_run(tmp_path / "weak", loyalty="refused")
    saved(tmp_path / "few", ["care"])
    saved(tmp_path / "full", ["aggregator"], context="full")
    other = saved(tmp_path / "other", ["aggregator"], context="dynamic")
    write_json(other / "adapters.json", {**json.loads((other / "adapters.json").read_text()), "base_digest": "e"})
    rows = [row for row in question_rows() if row["split"] == "train"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(JOB, [*line, *(part.format(tmp_path) for part in more)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
