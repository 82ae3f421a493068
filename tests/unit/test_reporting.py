"""Progress as others see it: Prometheus, Ray's table of jobs, JSON logs. Ray's parts stand in for a cluster."""

import json
import os
import re
import time
from typing import Any

import pytest
from ray.dashboard.modules.job.common import JobInfo, JobInfoStorageClient, JobStatus

from jobs import reporting
from jobs.progress import progress
from jobs.reporting import Report, run_id

SUBMISSION = json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_1", "job_name": "x"}})
KEY = JobInfoStorageClient.JOB_DATA_KEY.format(job_id="raysubmit_1")


class FakeGauge:
    """Remembers what it was set to."""

    values: dict[tuple[str, str, str], float]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description
        assert tag_keys == ("run", "stage")
        self._name = name

    def set(self, value: float, tags: dict[str, str]) -> None:
        FakeGauge.values[self._name, tags["run"], tags["stage"]] = value


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Ray's table of jobs, with one that runs, of which this process is the driver."""
    job = JobInfo(JobStatus.RUNNING, "python -m jobs.annotate", metadata={"job": "annotate"})
    kept: dict[str, Any] = {KEY: json.dumps(job.to_json()).encode()}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", SUBMISSION)
    monkeypatch.setattr(reporting, "_joined", lambda: object())
    monkeypatch.setattr(reporting, "_gauges", {})
    monkeypatch.setattr("ray.util.metrics.Gauge", FakeGauge)
    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_get", lambda key, namespace: kept.get(key))
    monkeypatch.setattr(
        "ray.experimental.internal_kv._internal_kv_put", lambda key, value, namespace: kept.update({key: value})
    )
    FakeGauge.values = {}
    return kept


def listed(table: dict[str, Any]) -> JobInfo:
    return JobInfo.from_json(json.loads(table[KEY]))


def test_prometheus_and_the_table_of_jobs_hear_of_progress(table: dict[str, Any]) -> None:
    with progress("annotating", 20, done=5) as advance:
        advance(10)
        assert FakeGauge.values["consilience_job_done", "raysubmit_1", "annotating"] == 15
        assert FakeGauge.values["consilience_job_total", "raysubmit_1", "annotating"] == 20
        assert listed(table).metadata == {"job": "annotate"}, "not yet: ten seconds have not gone by"
    assert not [key for key in FakeGauge.values if "cost" in key[0]], "nothing here has a price"
    job = listed(table)
    assert job.metadata == {"job": "annotate", "progress annotating": "15/20"}
    assert job.message is not None
    assert re.fullmatch(r"annotating: 15/20 in \d+\.\d s", job.message)


def test_what_a_stage_has_cost_is_told_everywhere(
    table: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONSILIENCE_LOG", "json")
    with progress("annotating", 20) as advance:
        advance(5, 0.25)
        advance(5, 0.5)
        assert FakeGauge.values["consilience_job_cost_usd", "raysubmit_1", "annotating"] == 0.5
    assert listed(table).metadata == {
        "job": "annotate", "progress annotating": "10/20", "cost_usd annotating": "0.500000",
    }  # fmt: skip
    assert (listed(table).message or "").endswith(" s, 0.5000 USD so far")
    assert json.loads(capsys.readouterr().err)["cost_usd"] == 0.5


def test_a_terminal_shows_count_rate_time_left_and_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress("annotating", 20) as advance:
        for _ in range(4):
            time.sleep(0.01)
            advance(5, 0.25)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(
        r"annotating .*20/20 0:00:00 \d+\.\d/s 0\.2500 USD so far", re.sub(r"\x1b\[[\d;?]*\w", "", shown.err)
    )


def test_ten_seconds_later_it_says_how_long_it_will_take(
    table: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("jobs.reporting.time.monotonic", lambda: now)
    report = Report("annotating", done=5)
    now = 110.0
    report.tell(15, 35)
    words = "annotating: 15/35, 1.0/s, 0:00:20 left"
    assert listed(table).message == words
    assert capsys.readouterr().err == f"{words}\n"
    report.tell(16, 35)
    assert capsys.readouterr().err == ""
    now = 120.0
    monkeypatch.setenv("CONSILIENCE_LOG", "json")
    report.tell(25, 35, 0.1234)
    assert listed(table).message == "annotating: 25/35, 1.0/s, 0:00:10 left, 0.1234 USD so far"
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time")
    assert line == {
        "run": "raysubmit_1", "message": listed(table).message, "stage": "annotating", "done": 25, "total": 35,
        "rate_per_second": 1.0, "seconds_left": 10, "cost_usd": 0.1234,
    }  # fmt: skip


def test_a_job_that_has_ended_is_left_as_it_is(table: dict[str, Any]) -> None:
    table[KEY] = json.dumps(JobInfo(JobStatus.STOPPED, "python").to_json())
    before = table[KEY]
    Report("annotating").end(1, 2)
    assert table[KEY] == before


def test_what_cannot_be_told_ends_no_job(table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **more: Any) -> None:
        raise ConnectionError("the head is away")

    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_get", fail)
    monkeypatch.setattr(FakeGauge, "set", fail)
    with progress("annotating", 1) as advance:
        advance(1)


def test_lines_of_a_json_log_name_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CONSILIENCE_LOG", "json")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", SUBMISSION)
    with progress("answering", 4) as advance:
        advance(4)
    line = json.loads(capsys.readouterr().err)
    assert {key: line[key] for key in ("run", "stage", "done", "total")} == {
        "run": "raysubmit_1", "stage": "answering", "done": 4, "total": 4,
    }  # fmt: skip
    assert line["time"].endswith("+00:00")
    assert line["seconds"] >= 0


def test_a_run_that_was_not_submitted_has_an_id_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert re.fullmatch(rf"local-\d{{8}}T\d{{6}}-{os.getpid()}", run_id())
    assert run_id() == run_id()
