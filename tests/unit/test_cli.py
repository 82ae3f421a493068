"""The command line that every job shares: exit codes, dry run, help."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import Field

from consilience.config import Config
from consilience.errors import UserError
from consilience.runs import Run, read_manifest
from jobs.cli import Job, Summary, main, rounded
from jobs.reporting import run_id


class Settings(Config):
    data: Path = Field(description="the input")
    fail: str = Field("never", description="how to fail")


def plan(config: Settings) -> list[str]:
    if str(config.data) == "absent":
        raise UserError("absent: no such file")
    return [f"would read {config.data}"]


class CarrierError(Exception):
    """As Ray Train's ControllerError."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("failed due to controller error")
        self.controller_failure = failure


def execute(config: Settings, run: Run) -> Summary:
    if config.fail == "user":
        raise UserError("row 3: bad")
    if config.fail == "bug":
        raise ZeroDivisionError("oops")
    if config.fail == "disk":
        raise CarrierError(OSError(28, "No space left on device"))
    if config.fail == "interrupt":
        raise KeyboardInterrupt
    return {"items": 3}


JOB = Job("thing", "Does a thing.", Settings, plan, execute, inputs=("data",))


def test_done_writes_manifest_and_summary(tmp_path: Path) -> None:
    assert main(JOB, ["--data", "x.csv", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "summary.json").read_text()) == {"items": 3}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["config"]["data"] == "x.csv"
    assert manifest["run_id"] == run_id()


@pytest.mark.parametrize("name", ["a #1.csv", "a: b.csv", "[x].csv", "null", "7", "Größe 🌍 'q' \"d\".csv"])
def test_a_file_is_found_whatever_its_name_means_in_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    assert main(JOB, ["--data", name, "--out", "run"]) == 0
    assert read_manifest(Path("run"))["config"]["data"] == name


def test_dry_run_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(JOB, ["--data", "x.csv", "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    assert capsys.readouterr().out == "would read x.csv\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "absent"], 2, "error: absent: no such file\n"),
        (
            ["--data", "x", "--set", "fial=never"],
            2,
            "error: command line: unknown key 'fial'; known keys here: data, fail\n",
        ),
        (["--set", "fail=never"], 2, "error: command line: missing key 'data'\n"),
        (["--data", "x", "--set", "fail=user"], 2, "error: row 3: bad\n"),
        (["--data", "x", "--set", "fail=bug"], 1, "failed: ZeroDivisionError: oops; the same command resumes it\n"),
        (["--data", "x", "--set", "fail=disk"], 1, "failed: OSError: [Errno 28] No space left on device; the same"),
        (["--data", "x", "--set", "fail=interrupt"], 1, "stopped; the same command resumes it"),
    ],
)
def test_exit_codes_and_one_line_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(JOB, [*arguments, "--out", str(tmp_path / "run")]) == code
    error = capsys.readouterr().err
    assert message in error
    assert ("Traceback" in error) == (code == 1 and "interrupt" not in str(arguments))


@pytest.mark.parametrize(
    ("fail", "code", "status", "message"),
    [
        ("user", 2, "failed", "error: row 3: bad"),
        ("bug", 1, "failed", "failed: ZeroDivisionError: oops; the same command resumes it"),
        ("interrupt", 1, "interrupted", "stopped; the same command resumes it: "),
    ],
)
def test_the_last_line_of_a_json_log_says_why_a_job_failed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fail: str,
    code: int,
    status: str,
    message: str,
) -> None:
    monkeypatch.setenv("CONSILIENCE_LOG", "json")
    assert main(JOB, ["--data", "x", "--set", f"fail={fail}", "--out", str(tmp_path)]) == code
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (lines[-1]["run"], lines[-1]["status"], lines[-1]["exit_code"]) == (run_id(), status, code)
    assert lines[-1]["message"].startswith(message)
    assert ("Traceback" in lines[-1].get("traceback", "")) == (fail == "bug")


def test_a_dry_run_that_is_stopped_leaves_nothing_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(config: Settings) -> list[str]:
        raise KeyboardInterrupt

    assert main(replace(JOB, plan=stopped), ["--data", "x", "--dry-run"]) == 1
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    ("figure", "shown"), [(0.123456, 0.1235), (None, None), (float("nan"), None), (float("inf"), None), (0.0, 0.0)]
)
def test_a_figure_that_is_missing_is_null_and_never_zero(figure: float | None, shown: float | None) -> None:
    assert rounded(figure) == shown


def test_a_missing_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(JOB, ["--data", "x"]) == 2
    assert "--out: missing" in capsys.readouterr().err


def test_help_lists_every_key_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(JOB, ["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "the input [required]" in text
    assert "how to fail [never]" in text
