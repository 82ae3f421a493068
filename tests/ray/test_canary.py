"""Secrets planted where users put them are found nowhere else: run folders, Ray's logs, what jobs print or record."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import ray
import yaml
from own_cluster import ROOT, free_port, head, started, variables
from ray._private import worker
from ray._raylet import AuthenticationTokenLoader

sys.path.append(str(ROOT / "tests/unit"))

from chat_server import ChatServer, Seen

from jobs.annotate import JOB
from jobs.cli import main

KEY = "sk-canary-7a11e57ca9e5b12d7a11e57c"
SERVICE_TOKEN = "canary-of-the-service-2f9d0c4b8e"
LAST = 24


def say_it_back(seen: Seen) -> Any:
    """Errors and garbage that hold the key which the server was sent; the first attempt at a judgement meets one."""
    error = {"error": {"message": f"no good: {seen.authorization}", "code": KEY}}
    if seen.earlier:
        return None
    kinds = ((500, {"X-Debug": KEY}, error), (200, {"X-Debug": KEY}, {"garbage": seen.authorization}), None)
    return kinds[len(seen.question) % len(kinds)]


class Refusing:
    """As `say_it_back`, and after `LAST` requests the key is refused, in words that hold it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, seen: Seen) -> Any:
        self.count += 1
        if self.count > LAST:
            return 401, {"X-Debug": KEY}, {"error": {"message": f"unknown key {KEY}", "code": "invalid_api_key"}}
        return say_it_back(seen)


def write_config(folder: Path, url: str, **key: str) -> Path:
    texts = [f"I told {'very ' * n}few of my friends that I was leaving." for n in range(8)]
    rows = [json.dumps({"item_id": str(n), "text": text}) for n, text in enumerate(texts)]
    (folder / "dilemmas.jsonl").write_text("\n".join(rows) + "\n")
    block = {"annotator": "api", "kind": "openai", "base_url": url, "model": "mock-2026-01-01", "concurrency": 4}
    block |= {"timeout": 20, "requests_per_minute": 100_000, "max_retries": 1, **key}
    pool = [block, {"annotator": "random01", "kind": "synthetic", "behaviour": "random01"}]
    config = {"dilemmas": str(folder / "dilemmas.jsonl"), "pool": pool, "batch_size": 2, "repeat_sample": 0}
    (folder / "annotate.yaml").write_text(yaml.safe_dump(config))
    return folder / "annotate.yaml"


def holding(folder: Path, *secrets: str) -> list[Path]:
    """Files in and below `folder` that hold a secret."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets)
    ]


def listening(process: psutil.Process) -> set[str]:
    """Addresses on which a process and its children listen."""
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for one in (process, *process.children(recursive=True))
        for connection in one.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_a_key_in_a_file_and_the_token_of_the_local_cluster(
    cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    out = tmp_path / "work" / "run"
    out.parent.mkdir()
    with ChatServer(fault=Refusing()).running() as server:
        config = write_config(out.parent, server.url, key_file=str(tmp_path / "key"))
        assert main(JOB, ["--config", str(config), "--out", str(out)]) == 0
    assert {seen.authorization for seen in server.requests} == {f"Bearer {KEY}"}
    assert len(server.requests) > LAST
    shown = "".join(capfd.readouterr())
    assert "annotator api stopped: HTTP 401: unknown key [key]" in shown

    token = AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True)
    logs = Path(worker._global_node.get_session_dir_path())
    assert len(token) > 20
    assert list(logs.rglob("*.log"))
    recorded = repr([ray.get_runtime_context().runtime_env, ray._private.state.jobs(), ray._private.state.actors()])
    assert KEY not in shown + recorded
    assert token not in shown + recorded
    assert not holding(out.parent, KEY, token)
    assert not holding(logs, KEY, token)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_key_and_a_token_in_the_environment_of_a_cluster(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with variables(tmp_path) as environment, ChatServer(fault=Refusing()).running() as server:
        token = (tmp_path / "token").read_text()
        config = write_config(work, server.url, key_env="CANARY_KEY")
        with head(environment | {"CANARY_KEY": KEY}, tmp_path) as (address, process):
            assert listening(psutil.Process(process.pid)) == {"127.0.0.1"}
            submit = ["ray", "job", "submit", "--address", address, "--working-dir", str(work), "--"]
            job = ["python", "-m", "jobs.annotate", "--config", str(config), "--out", str(work / "run")]
            shown = subprocess.run([*submit, *job], cwd=ROOT, env=environment, capture_output=True, text=True)
            assert shown.returncode == 0, shown.stdout + shown.stderr
            assert "annotator api stopped: HTTP 401: unknown key [key]" in shown.stdout + shown.stderr
            listed = subprocess.run(
                ["ray", "job", "list", "--address", address],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            assert "runtime_env" in listed.stdout
            answer = httpx2.get(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
            assert answer.is_success
            assert not httpx2.get(f"{address}/api/jobs/").is_success
        said = shown.stdout + shown.stderr + listed.stdout + listed.stderr + answer.text
        assert KEY not in said
        assert token not in said
        assert {seen.authorization for seen in server.requests} == {f"Bearer {KEY}"}
        assert (work / "run" / "manifest.json").exists()
        assert not holding(work, KEY, token)
        assert list(Path(environment["RAY_TMPDIR"]).rglob("job-driver-*.log"))
        assert not holding(Path(environment["RAY_TMPDIR"]), KEY, token)
        (tmp_path / "token").unlink()
        assert not holding(tmp_path, KEY, token)


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_the_token_of_the_service(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump({"address": {"host": "127.0.0.1", "port": port}}))
    command = [sys.executable, "-m", "serve_app", "--config", str(tmp_path / "serve.yaml")]
    with variables(tmp_path) as environment:
        environment = environment | {"CONSILIENCE_TOKEN": SERVICE_TOKEN}
        with started(command, environment, log) as process:
            deadline = time.monotonic() + 120
            while "Consilience: http://" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            url = f"http://127.0.0.1:{port}/v1/judge"
            right, wrong = ({"Authorization": f"Bearer {word}"} for word in (SERVICE_TOKEN, f"{SERVICE_TOKEN}x"))
            assert (
                httpx2.post(url, headers=right, json={"dilemma": "I lied."}).status_code == 503
            )  # nothing to judge by
            assert httpx2.post(url, headers=wrong, json={"dilemma": "I lied."}).status_code == 401
            assert httpx2.post(url, json={"dilemma": "I lied."}).status_code == 401
            running = psutil.Process(process.pid)
            assert listening(running) == {"127.0.0.1"}
            children = running.children(recursive=True)
            assert children
            assert not [child for child in children if "CONSILIENCE_TOKEN" in child.environ()]
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
        token = (tmp_path / "token").read_text()
        assert list(Path(environment["RAY_TMPDIR"]).rglob("*Ingress*"))
        assert not holding(Path(environment["RAY_TMPDIR"]), SERVICE_TOKEN, token)
        assert SERVICE_TOKEN not in log.read_text()
        assert token not in log.read_text()
