"""A process of a job is killed: an actor, a training worker, the driver. The job's results are an undisturbed run's."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from kills import at_work, killing, wait_for
from small_jobs import ROOT, Case, cells

from actors.em_pool import Shards
from consilience.runs import read_manifest

Start = Callable[[str | None], "subprocess.Popen[bytes]"]

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize(("job", "part"), [*cells("model actor"), *cells("training worker")])
def test_a_killed_process_is_replaced(case: Case, job: str, part: str, tmp_path: Path) -> None:
    """All actors that host a model at the time, or one worker of a training."""
    out = tmp_path / "run"
    host = case.small.hosts[part]
    with killing(lambda: at_work(host, out), most=None if part == "model actor" else 1) as killed:
        assert case.run(out) == 0
    assert killed
    case.check(out)


@pytest.mark.parametrize(("job", "part"), cells("shard actor"))
def test_a_killed_shard_comes_back(
    case: Case, job: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the third pass of the fit."""
    passes = 0
    step = Shards.step

    def killing_step(self: Shards, parameters: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes == 3:
            pid = ray.get(self._actors[1].__ray_call__.remote(lambda _: os.getpid()))
            os.kill(pid, signal.SIGKILL)
        return step(self, parameters)

    monkeypatch.setattr(Shards, "step", killing_step)
    assert case.run(tmp_path / "run") == 0
    assert passes > 4
    case.check(tmp_path / "run")


@pytest.fixture
def start(case: Case, tmp_path: Path) -> Iterator[Start]:
    """Start the job as a process of its own, writing `tmp_path`/run, on the tests' cluster or on one of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(address: str | None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"jobs.{case.job}", *case.arguments(tmp_path / "run")]
        environment = {**os.environ, **({} if address is None else {"RAY_ADDRESS": address})}
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(("job", "part"), cells("driver", "resumed"))
def test_a_killed_driver_is_started_again(case: Case, job: str, part: str, tmp_path: Path, start: Start) -> None:
    """What it had started on the cluster may live on for a moment, as the same command already runs again."""
    out = tmp_path / "run"
    driver = start(ray.get_runtime_context().gcs_address)
    wait_for(lambda: at_work(case.small.last, out), lambda: driver.poll() is None)
    driver.kill()
    driver.wait()
    assert read_manifest(out)["status"] == "running"
    assert not (out / "summary.json").exists()
    assert case.run(out) == 0
    case.check(out)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("job", "stop"), [("annotate", signal.SIGINT), ("train_values", signal.SIGINT), ("train_values", signal.SIGTERM)]
)
def test_a_stopped_job_says_so_and_goes_on(
    case: Case, job: str, stop: signal.Signals, tmp_path: Path, start: Start
) -> None:
    """Ctrl-C reaches every process that was started from the terminal, Ray's too; SIGTERM the driver alone."""
    out = tmp_path / "run"
    driver = start(None)
    wait_for(lambda: at_work(case.small.last, out, psutil.Process(driver.pid)), lambda: driver.poll() is None)
    if stop == signal.SIGINT:
        os.killpg(driver.pid, stop)
    else:
        driver.send_signal(stop)
    assert driver.wait(60) == 1
    assert f"stopped; the same command resumes it: {out}" in (tmp_path / "log").read_text()
    assert read_manifest(out)["status"] == "interrupted"
    assert case.run(out) == 0
    case.check(out)
