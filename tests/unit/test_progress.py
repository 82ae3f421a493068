"""Progress of trainings, as their workers note it down."""

import os
from pathlib import Path

import pytest

from consilience.files import write_json
from consilience.workers import PROGRESS
from jobs.progress import watching


def test_trainings_are_shown_and_what_an_earlier_run_left_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "earlier" / PROGRESS
    write_json(old, {"done": 9, "total": 9, "note": ""})
    os.utime(old, (0, 0))
    with watching(tmp_path):
        write_json(tmp_path / "care" / PROGRESS, {"done": 3, "total": 4, "note": "reward 0.512"})
    assert capsys.readouterr().err == "care: 3/4 reward 0.512\n"


def test_a_folder_that_goes_while_it_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [*listed(path, pattern), tmp_path / "gone" / PROGRESS])
    with watching(tmp_path):
        write_json(tmp_path / "care" / PROGRESS, {"done": 3, "total": 4, "note": "Güte 0.5"})
    assert capsys.readouterr().err == "care: 3/4 Güte 0.5\n"


def test_nothing_is_shown_where_no_training_began(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), watching(tmp_path / "none"):
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""
