"""The job's plan: what is refused before anything is trained, as one line."""

import json
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.train_values import JOB

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--set", "data={}"], "no file; expected at least one of examples"),
        (["--set", "data={moral_stories: [a.jsonl]}"], "which value a norm is about"),
        (["--set", "data={stories: [a]}"], "unknown key 'data.stories'"),
        (["--data", str(ROOT / "configs/demo_values.jsonl"), "--set", "encoder.source=package:nowhere"], "no package"),
        (["--data", str(ROOT / "configs/demo_values.jsonl"), "--set", "folds=2"], "key 'folds'"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(JOB, [*arguments, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_bad_row_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"value": "liberty", "text": "x", "follows": 1, "situation": "s"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert main(JOB, ["--data", str(tmp_path / "own.jsonl"), "--out", str(tmp_path / "run")]) == 2
    assert "row 1, column 'value': expected one of authority" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/manifest.json").read_text())["status"] == "failed"


def test_the_configs_shipped_are_valid(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert main(JOB, ["--config", "configs/smoke/train_values.yaml", "--dry-run"]) == 0
    assert "follows: authority, care, fairness, loyalty, sanctity" in capsys.readouterr().out
    assert main(JOB, ["--config", "configs/train_values.yaml", "--dry-run"]) == 2, "its data is not shipped"
    assert "data/mfrc/mfrc_counts.tsv.gz: no such file" in capsys.readouterr().err
