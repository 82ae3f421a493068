"""The annotate job against a server that bills and misbehaves: nothing paid twice, the cap kept, the key nowhere."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from chat_server import Body, ChatServer, Seen, completion, p_yes, with_logprobs
from openai_checks import PRICES, annotator, draw

from consilience.lm.openai_annotator import OpenAIAnnotator, request_body
from consilience.table_schema import read_table
from consilience.tables import ANNOTATIONS
from consilience.theories import THEORIES

Start = Callable[..., "subprocess.Popen[bytes]"]
ROOT = Path(__file__).parents[2]
CANARY = "sk-canary-0ddba11c0ffee0ddba11"
DOOMED = "DOOMED"
TEXTS = [f"I told my sister that {n} guests were coming when I knew that nobody would." for n in range(11)]
TEXTS.append(f"{DOOMED}: the server never answers this one.")


def faults(seen: Seen) -> Any:
    """Most judgements meet one fault; those of one dilemma fail for good."""
    if DOOMED in seen.question:
        return 500, {}, {"error": {"message": f"not even with {CANARY}"}}
    kinds = ("garbage", "half", (429, {"Retry-After": "0"}, {}), (500, {"X-Debug": CANARY}, {}), "silence", None, None)
    return kinds[draw(seen) % len(kinds)] if seen.earlier == 0 else None


def model(seen: Seen) -> Body:
    """One answer in ten is refused, one cut off, one beside the question; the rest have log-probabilities."""
    match draw(seen) // 1000 % 10:
        case 0:
            return completion(None, refusal="I would rather not judge this.")
        case 1:
            return completion("As a matter of", "length")
        case 2:
            return completion(f"It depends. {CANARY}")
        case _:
            return with_logprobs(seen)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(fault=faults, model=model).running() as running:
        yield running


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the job as a process of its own, the key in its environment, Ray's logs in `ray`."""
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as short:  # sockets need a short path

        def start(config: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "jobs.annotate", "--config", str(config), "--out", str(out)]
            environment = {**os.environ, "CANARY_KEY": CANARY, "RAY_TMPDIR": short}
            with log.open("ab") as file:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, start_new_session=True, stdout=file, stderr=file
                )
            started.append(process)
            return process

        yield start
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        holding = [path for path in Path(short).rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
        assert not holding, "the key is in Ray's logs"


def write_config(folder: Path, server: ChatServer, **more: Any) -> tuple[Path, OpenAIAnnotator]:
    config = annotator(server, **{"key_env": "CANARY_KEY", "timeout": 2, "max_retries": 2, **PRICES, **more})
    dilemmas = folder / "dilemmas.jsonl"
    dilemmas.write_text("".join(json.dumps({"item_id": str(n), "text": t}) + "\n" for n, t in enumerate(TEXTS)))
    path = folder / "annotate.yaml"
    pool = [config.model_dump(mode="json")]
    path.write_text(yaml.safe_dump({"dilemmas": str(dilemmas), "pool": pool, "batch_size": 4, "repeat_sample": 0}))
    return path, config


def annotations(run: Path) -> pd.DataFrame:
    return read_table(run / "annotations.parquet", ANNOTATIONS).to_pandas().set_index(["item_id", "theory"])


def expected(config: OpenAIAnnotator) -> pd.DataFrame:
    """Status and score of every judgement, from what the server does."""
    rows = []
    for item, text in enumerate(TEXTS):
        for theory in THEORIES:
            body = request_body(config, text, theory)
            seen = Seen(0.0, "", 0, None, body)
            words = {0: "refused", 1: "unparsable", 2: "unparsable"}
            status = "failed" if DOOMED in text else words.get(draw(seen) // 1000 % 10, "ok")
            rows.append((str(item), theory.name, status, p_yes(seen.question) if status == "ok" else np.nan))
    return pd.DataFrame(rows, columns=["item_id", "theory", "status", "score"]).set_index(["item_id", "theory"])


def files_with_the_key(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


@pytest.mark.fault("annotate", "driver", "resumed")
def test_a_killed_job_pays_nothing_twice_and_shows_no_key(server: ChatServer, start: Start, tmp_path: Path) -> None:
    path, config = write_config(tmp_path, server, concurrency=4)
    run, log = tmp_path / "run", tmp_path / "log"
    server.latency = 0.05
    job = start(path, run, log)
    deadline = time.monotonic() + 120
    while len(server.billed) < 20:
        assert job.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (run / "annotations.parquet").exists()

    assert start(path, run, log).wait(timeout=200) == 0, log.read_text()
    judged, right = annotations(run), expected(config)
    assert judged.index.is_unique
    assert set(right["status"]) == {"ok", "refused", "unparsable", "failed"}
    judged = judged.loc[right.index]
    assert judged["status"].tolist() == right["status"].tolist()
    np.testing.assert_allclose(judged["score"], right["score"], atol=1e-12)
    assert len(server.billed) == (right["status"] != "failed").sum()
    assert set(server.billed.values()) == {1}
    halved = sum(faults(seen) == "half" for seen in server.requests if seen.earlier == 0)
    assert server.replayed.total() <= halved + config.concurrency, "more was asked again than was in flight"
    assert {seen.authorization for seen in server.requests} == {f"Bearer {CANARY}"}

    summary, manifest = (json.loads((run / name).read_text()) for name in ("summary.json", "manifest.json"))
    assert (summary["missing"], summary["failed"]) == (right["score"].isna().sum(), len(THEORIES))
    assert server.billed_usd <= summary["cost_usd"] < 10 * server.billed_usd
    assert manifest["annotate"]["cost_usd"] == summary["cost_usd"]
    assert "5 judgements failed and are missing" in log.read_text()
    assert not files_with_the_key(tmp_path)


def test_a_job_stops_at_its_cost_cap_and_says_so(server: ChatServer, start: Start, tmp_path: Path) -> None:
    cap = 0.004
    path, _ = write_config(tmp_path, server, concurrency=16, max_retries=1, cost_cap_usd=cap)
    run, log = tmp_path / "run", tmp_path / "log"
    assert start(path, run, log).wait(timeout=200) == 0, log.read_text()
    judged, summary = annotations(run), json.loads((run / "summary.json").read_text())
    assert 0 < (judged["status"] == "failed").sum() < len(judged)
    assert (judged["score"].isna() == (judged["status"] != "ok")).all()
    assert 0 < server.billed_usd <= cap
    assert server.billed_usd <= summary["cost_usd"] <= cap
    assert "annotator api stopped: cost cap: " in log.read_text()
    assert not files_with_the_key(tmp_path)
