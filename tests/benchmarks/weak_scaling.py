"""Annotate on more and more nodes, and on more and more dilemmas: how long it takes and what the driver needs.

    python -m tests.benchmarks.weak_scaling nodes --sizes 1 2 4 8
    python -m tests.benchmarks.weak_scaling items --sizes 10000 100000 1000000 10000000

`nodes` simulates nodes with one logical GPU each on this machine, with an actor of one annotator on each and as many
dilemmas for each. The model is replaced by a wait of fixed length per batch, since the machine's few cores could show
nothing else; all other code is the job's. `items` judges one theory with a synthetic annotator in a local cluster, so
that what is measured is the job itself. Each size runs in a process of its own.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import yaml
from ray.cluster_utils import Cluster
from safetensors.numpy import save_file

from actors import annotator
from consilience.lm.scorer import OK, Scores
from consilience.tables import DILEMMAS
from consilience.theories import Theory
from jobs import annotate
from jobs.cli import main

ROOT = Path(__file__).parents[2]
FOLDER, WAIT = "WEAK_SCALING_FOLDER", "WEAK_SCALING_WAIT"
BATCH_OF_NODES, BATCH_OF_ITEMS = 16, 500
STORE = 100 * 2**20
CHUNK = 100_000


class WaitingScorer:
    """A scorer that waits as long for every batch, and writes down from when to when."""

    def __init__(self) -> None:
        node = ray.get_runtime_context().get_node_id()
        self._log = Path(os.environ[FOLDER]) / f"{node}-{os.getpid()}.waits"
        self._wait = float(os.environ[WAIT])

    def score(self, dilemmas: Sequence[str], theories: Sequence[Theory]) -> Scores:
        """Wait; every score is 0.5."""
        start = time.time()
        time.sleep(self._wait)
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{start} {time.time()}\n")
        shape = (len(dilemmas), len(theories))
        return Scores(np.full(shape, 0.5), np.full(shape, np.nan), np.full(shape, OK, dtype=object))


def wait_in_place_of_models() -> None:
    """Set up a worker process: annotators wait."""
    annotator.open_scorer = lambda config, answers: WaitingScorer()  # type: ignore[assignment]


def cpu_seconds() -> float:
    """CPU seconds of this process so far, all its threads."""
    used = os.times()
    return used.user + used.system


def memory(field: str) -> float:
    """`VmRSS` or `VmHWM` (the peak) of this process, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def forget_peak() -> None:
    """Let `VmHWM` start anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class Clock(threading.Thread):
    """Notes four times a second how much CPU the process has used."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.noted: list[tuple[float, float]] = []
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.25):
            self.noted.append((time.time(), cpu_seconds()))

    def between(self, start: float, end: float) -> float:
        """CPU seconds used from `start` to `end`."""
        self._over.set()
        times, used = np.array(self.noted).T
        return float(np.diff(np.interp([start, end], times, used))[0])


def write_dilemmas(path: Path, items: int) -> None:
    """`items` short dilemmas, each another, written in chunks."""
    schema = pa.schema([DILEMMAS.arrow.field("item_id"), DILEMMAS.arrow.field("text")])
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for start in range(0, items, CHUNK):
            numbers = range(start, min(start + CHUNK, items))
            columns = [[f"{number:08d}" for number in numbers]]
            columns += [[f"I kept {number} coins that a stranger had lost in the street." for number in numbers]]
            file.write_table(pa.table(columns, schema=schema))


def write_config(folder: Path, **settings: Any) -> list[str]:
    """The arguments of an annotate job in `folder`."""
    config = {"dilemmas": str(folder / "dilemmas.parquet"), "repeat_sample": 10, **settings}
    (folder / "annotate.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return ["--config", str(folder / "annotate.yaml"), "--out", str(folder / "run")]


def write_model(folder: Path) -> str:
    """A folder that passes for a model, and is never loaded."""
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    save_file({"weight": np.zeros(1, dtype=np.float32)}, folder / "model.safetensors")
    return str(folder)


def on_nodes(nodes: int, batches: int, wait: float, folder: Path) -> dict[str, float]:
    """Judge `batches` batches a node on `nodes` simulated nodes."""
    os.environ.update({FOLDER: str(folder), WAIT: str(wait)})
    pool = [{"annotator": "waiting", "kind": "transformers", "source": write_model(folder / "model"), "num_gpus": 1}]
    pool[0]["actors"] = [nodes, nodes]
    items = nodes * batches * BATCH_OF_NODES
    write_dilemmas(folder / "dilemmas.parquet", items)
    arguments = write_config(folder, pool=pool, batch_size=BATCH_OF_NODES, repeat_sample=0)
    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE)
    hook = "tests.benchmarks.weak_scaling.wait_in_place_of_models"
    ray.init(address=cluster.address, runtime_env={"worker_process_setup_hook": hook}, log_to_driver=False)
    clock = Clock()
    forget_peak()
    clock.start()
    began, used = time.time(), cpu_seconds()
    assert main(annotate.JOB, arguments) == 0
    ended, used = time.time(), cpu_seconds() - used
    waits = [np.loadtxt(path, ndmin=2) for path in folder.glob("*.waits")]
    assert len({path.name.split("-")[0] for path in folder.glob("*.waits")}) == nodes, "an annotator on every node"
    first, last = max(wait[0, 0] for wait in waits), min(wait[-1, 1] for wait in waits)
    judged = sum(int(((first < wait[:, 1]) & (wait[:, 1] <= last)).sum()) for wait in waits) * BATCH_OF_NODES
    found = {
        "nodes": nodes,
        "dilemmas": items,
        "job_s": ended - began,
        "until_all_judge_s": first - began,
        "dilemmas_per_s": judged / (last - first),
        "of_possible": judged / (last - first) / (nodes * BATCH_OF_NODES / wait),
        "driver_cpu_s": used,
        "driver_ms_per_dilemma": 1000 * clock.between(first, last) / judged,
        "driver_peak_mb": memory("VmHWM"),
    }
    ray.shutdown()
    cluster.shutdown()
    return found


def of_items(items: int, folder: Path) -> dict[str, float]:
    """Judge `items` dilemmas under one theory in a local cluster; CPU and memory of the driver by step."""
    write_dilemmas(folder / "dilemmas.parquet", items)
    pool = [{"annotator": "constant", "kind": "synthetic", "behaviour": "constant"}]
    arguments = write_config(folder, pool=pool, batch_size=BATCH_OF_ITEMS, theories=["commonsense"])
    ray.init(address="local", num_cpus=2, object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
    found: dict[str, float] = {"items": items}
    steps = {"prepare_inputs": "prepare", "_judge_all": "judge", "_gather": "gather", "_repeat": "repeat"}

    @contextmanager
    def measured(step: str) -> Iterator[None]:
        forget_peak()
        used = cpu_seconds()
        yield
        found[f"{step}_us_per_item"] = (cpu_seconds() - used) / items * 1e6
        found[f"{step}_peak_mb"] = memory("VmHWM")

    def wrap(name: str, step: str) -> Any:
        original: Callable[..., Any] = getattr(annotate, name)

        def call(*given: Any) -> Any:
            if f"{step}_peak_mb" in found:  # the sample judged again takes the same steps
                return original(*given)
            with measured(step):
                return original(*given)

        return patch.object(annotate, name, call)

    found["start_mb"] = memory("VmRSS")
    began = time.time()
    with ExitStack() as patches:
        for name, step in steps.items():
            patches.enter_context(wrap(name, step))
        assert main(annotate.JOB, arguments) == 0
    found["job_s"] = time.time() - began
    ray.shutdown()
    return found


def alone(measure: Callable[..., dict[str, float]], *given: Any) -> dict[str, float]:
    """What `measure` finds in a process and a folder of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes,
    ):
        return processes.submit(measure, *given, Path(folder)).result()


def show(rows: Sequence[dict[str, float]]) -> None:
    """A Markdown table."""
    print(f"\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        shown = (f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" for value in row.values())
        print(f"| {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("nodes", "items"))
    parser.add_argument("--sizes", type=int, nargs="+", required=True)
    parser.add_argument("--batches", type=int, default=25, help="nodes: batches a node")
    parser.add_argument("--wait", type=float, default=1.0, help="nodes: seconds for a batch")
    arguments = parser.parse_args()
    os.environ |= {"PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    os.environ |= {"RAY_raylet_start_wait_time_s": "120"}  # all nodes start on the same cores
    rows = []
    for size in arguments.sizes:
        if arguments.what == "nodes":
            rows.append(alone(on_nodes, size, arguments.batches, arguments.wait))
        else:
            rows.append(alone(of_items, size))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    show(rows)
