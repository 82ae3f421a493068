"""The run folder: provenance, resume by fingerprint, one writer, nothing half-written."""

import errno
import json
import os
from pathlib import Path

import pytest

from consilience.errors import UserError
from consilience.files import atomic_path, write_json
from consilience.runs import Run, read_manifest, read_summary


def test_a_finished_stage_with_the_same_fingerprint_is_known(tmp_path: Path) -> None:
    with Run.open(tmp_path, "job", {"seed": 3}) as run:
        assert not run.finished("fit", "abc")
        with run.stage("fit", "abc"):
            (run / "table").write_text("x")
    with Run.open(tmp_path, "job", {"seed": 3}) as run:
        assert run.finished("fit", "abc", "table")
        assert not run.finished("fit", "other", "table")
        (run / "table").unlink()
        assert not run.finished("fit", "abc", "table")
    manifest = read_manifest(tmp_path)
    assert manifest["status"] == "done"
    assert manifest["seed"] == 3
    assert manifest["packages"]["ray"]
    assert manifest["started"] <= manifest["ended"]


def test_a_stage_that_breaks_is_not_finished_and_the_reason_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), Run.open(tmp_path, "job", {}) as run, run.stage("fit", "abc"):
        raise ValueError("boom")
    manifest = read_manifest(tmp_path)
    assert (manifest["status"], manifest["reason"]) == ("failed", "ValueError: boom")
    assert manifest["stages"] == {}


def test_what_is_to_run_again_is_unfinished_before_it_runs(tmp_path: Path) -> None:
    """Killed between two configs' files, a run of the first must not take the second's for its own."""
    with Run.open(tmp_path, "job", {"kappa": 1}) as run, run.stage("fit", "first"):
        pass
    with Run.open(tmp_path, "job", {"kappa": 2}) as run:
        assert not run.finished("fit", "second")
        assert read_manifest(tmp_path)["stages"] == {}, "what a killed process would leave"
    with Run.open(tmp_path, "job", {"kappa": 1}) as run:
        assert not run.finished("fit", "first")


def test_a_run_that_has_not_finished_has_neither_summary_nor_inputs_of_an_earlier_one(tmp_path: Path) -> None:
    with Run.open(tmp_path, "job", {"data": "a"}) as run:
        run.record(inputs={"a": "0" * 64}, fit=1)
        run.summarise({"items": 3})
    with pytest.raises(UserError), Run.open(tmp_path, "job", {"data": "b"}):
        raise UserError("row 3: bad")
    assert read_summary(tmp_path) == {}
    manifest = read_manifest(tmp_path)
    assert (manifest["inputs"], manifest["fit"]) == ({}, 1)


def test_an_interrupt_is_recorded_as_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Run.open(tmp_path, "job", {}):
        raise KeyboardInterrupt
    assert read_manifest(tmp_path)["status"] == "interrupted"


def test_one_writer_and_one_job_per_folder(tmp_path: Path) -> None:
    with (
        Run.open(tmp_path, "job", {}),
        pytest.raises(UserError, match="another process"),
        Run.open(tmp_path, "job", {}),
    ):
        pass
    with pytest.raises(UserError, match="holds a run of job 'job'"), Run.open(tmp_path, "other", {}):
        pass


def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), Run.open(tmp_path / "file" / "run", "job", {}):
        pass


def test_a_file_system_without_locks_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match="cannot be locked: No locks available"), Run.open(tmp_path, "job", {}):
        pass


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        read_manifest(tmp_path)
    for text, message in (("[]", "expected a JSON object, the manifest"), ("{}", "not a manifest"), ("[", "not JSON")):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=rf"manifest\.json: {message}"):
            read_manifest(tmp_path)


def test_a_write_that_breaks_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(f"half {1 // 0}")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.json: cannot be written: No space left"), atomic_path(tmp_path / "x.json"):
        Path("/dev/full").write_text("x")
    assert list(tmp_path.iterdir()) == []
