"""The job as it is run on a cluster: `ray job submit --working-dir . -- python -m jobs.pipeline ...`."""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from consilience.runs import read_manifest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
sys.path.insert(0, str(ROOT / "tests/unit"))

from chat_server import ChatServer  # noqa: E402


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A local head with token authentication; yields its address and the environment of a client."""
    (tmp_path / "token").write_text(secrets.token_hex(32))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "RAY_TMPDIR": tempfile.mkdtemp(prefix="ray-"),  # a socket's path must be short
    }
    port, dashboard, client = free_port(), free_port(), free_port()
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"),
        *(
            f"--port={port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
        ),
        *(f"--ray-client-server-port={client}", "--dashboard-agent-listen-port=0", "--disable-usage-stats"),
    ]
    log = (tmp_path / "head.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(
            [BIN / "ray", "job", "list", "--address", address], env=environment, capture_output=True
        ).returncode:
            assert process.poll() is None, (tmp_path / "head.log").read_text()
            assert time.monotonic() < deadline, "the head did not come up"
            time.sleep(1)
        yield address, environment
    finally:
        ours = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(30)
        shutil.rmtree(environment["RAY_TMPDIR"], ignore_errors=True)


@pytest.mark.timeout(480)
def test_the_pipeline_runs_as_a_submitted_job(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environment = head
    out = tmp_path / "run"
    command = [
        *(BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--entrypoint-num-cpus", "0.1"),
        *("--", "python", "-m", "jobs.pipeline", "--config", "configs/smoke/pipeline.yaml", "--out", str(out)),
    ]
    job = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert job.returncode == 0, job.stdout + job.stderr
    manifest = read_manifest(out)
    assert manifest["status"] == "done"
    assert (out / "report.html").exists()


def write_paid_job(folder: Path, url: str) -> Path:
    """400 judgements, half a second each and eight at a time, by an annotator with a price."""
    rows = [{"item_id": str(k), "text": f"I kept {k} coins that I had found."} for k in range(80)]
    (folder / "dilemmas.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    annotator = {"annotator": "api", "kind": "openai", "base_url": url, "model": "m", "requests_per_minute": 60_000}
    annotator |= {"usd_per_million_input": 0.5, "usd_per_million_output": 2.0}
    config = {"dilemmas": str(folder / "dilemmas.jsonl"), "pool": [annotator], "batch_size": 2, "repeat_sample": 0}
    (folder / "annotate.yaml").write_text(json.dumps(config))
    return folder / "annotate.yaml"


def measured(environment: dict[str, str]) -> str:
    """What Prometheus would read, from the addresses that Ray hands to it."""
    file = Path(environment["RAY_TMPDIR"]) / "ray/prom_metrics_service_discovery.json"
    places = json.loads(file.read_text()) if file.exists() else []
    pages = []
    for address in (target for place in places for target in place["targets"]):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
            pages.append(page.read().decode())
    return "\n".join(pages)


@pytest.mark.chaos
@pytest.mark.timeout(480)
def test_a_running_job_says_how_far_it_is_and_what_it_has_cost(
    head: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, environment = head

    def job(what: str, *arguments: str) -> str:
        command = [BIN / "ray", "job", what, "--address", address, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with ChatServer(latency=0.5).running() as server:
        config = write_paid_job(tmp_path, server.url)
        command = ["python", "-m", "jobs.annotate", "--config", str(config), "--out", str(tmp_path / "run")]
        settings = ["--submission-id", "shown", "--metadata-json", json.dumps({"job": "annotate"})]
        settings += ["--runtime-env-json", json.dumps({"env_vars": {"CONSILIENCE_LOG": "json"}})]
        job("submit", "--no-wait", "--entrypoint-num-cpus", "0.1", *settings, "--", *command)
        status = listed = page = ""
        deadline = time.monotonic() + 300
        while "'shown' succeeded" not in (state := job("status", "shown")):
            assert time.monotonic() < deadline
            assert "'shown' failed" not in state, job("logs", "shown")
            if " left, " in state:
                status, listed = state, job("list")
            page = found if "consilience_job_cost_usd{" in (found := measured(environment)) else page
            time.sleep(1)
        log = job("logs", "shown")
    assert re.search(r"annotating: \d+/400, \d+\.\d/s, \d:\d\d:\d\d left, 0\.\d{4} USD so far", status), status
    for key in ("job", "progress annotating", "cost_usd annotating"):
        assert f"'{key}': " in listed
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    told = [line for line in lines if line.get("rate_per_second")]
    assert told
    assert all(line["run"] == "shown" and line["total"] == 400 and line["cost_usd"] > 0 for line in told)
    assert read_manifest(tmp_path / "run")["run_id"] == "shown"
    for name in ("done", "total", "cost_usd"):
        assert re.search(rf'^ray_consilience_job_{name}{{[^}}]*run="shown"[^}}]*}} ', page, re.MULTILINE), name
    board = (ROOT / "cluster/grafana-jobs.json").read_text()
    needs_more = re.compile("gpu")  # this machine has none
    shown = {name for name in re.findall(r"\bray_\w+", board) if not needs_more.search(name)}
    assert {name for name in shown if not re.search(rf"^{name}{{", page, re.MULTILINE)} == set()
