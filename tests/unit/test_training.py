"""Ray Train's list of checkpoints, which a full disk cuts off, is put back."""

import json
from pathlib import Path

import pytest

from actors.training import _CHECKPOINTS, _CHECKPOINTS_BEFORE, _keep_checkpoints, _mend_checkpoints

LIST = {"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_1"}], "current_report_index": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a training after its first checkpoint, as the second is about to be made."""
    (tmp_path / "checkpoint_1").mkdir()
    (tmp_path / _CHECKPOINTS).write_text(json.dumps(LIST))
    _keep_checkpoints(tmp_path)
    return tmp_path


@pytest.mark.parametrize("left", ["", json.dumps(LIST)[:20]])
def test_a_list_that_was_cut_off_is_that_of_the_checkpoint_before(folder: Path, left: str) -> None:
    (folder / _CHECKPOINTS).write_text(left)
    _keep_checkpoints(folder)
    _mend_checkpoints(folder)
    assert json.loads((folder / _CHECKPOINTS).read_text()) == LIST


def test_a_whole_list_is_left_alone(folder: Path) -> None:
    newer = json.dumps({**LIST, "current_report_index": 2})
    (folder / _CHECKPOINTS).write_text(newer)
    _mend_checkpoints(folder)
    assert (folder / _CHECKPOINTS).read_text() == newer


@pytest.mark.parametrize("gone", [_CHECKPOINTS_BEFORE, "checkpoint_1"])
def test_without_an_earlier_checkpoint_the_training_begins_anew(folder: Path, gone: str) -> None:
    (folder / _CHECKPOINTS).write_text("")
    (folder / gone).rename(folder / "elsewhere")
    _mend_checkpoints(folder)
    assert not (folder / _CHECKPOINTS).exists()
    _mend_checkpoints(folder)
