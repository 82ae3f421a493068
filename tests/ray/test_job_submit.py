"""The job as it is run on a cluster: `ray job submit --working-dir . -- python -m jobs.pipeline ...`."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from consilience.runs import read_manifest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


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
