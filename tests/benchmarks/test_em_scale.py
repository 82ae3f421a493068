"""A hundred million scores over two shard actors: that it finishes, how long it takes, and the memory it needs.

`pytest tests/benchmarks/test_em_scale.py -m bench -s`; CONSILIENCE_SCORES sets another number of scores.
"""

import contextlib
import json
import os
import resource
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from jobs.aggregate import JOB
from jobs.cli import main

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

ANNOTATORS = 10
CHUNK = 1_000_000


def write_scores(path: Path, items: int) -> None:
    """Ten annotators' scores of `items` items, in chunks; half of the items are acceptable."""
    random = np.random.default_rng(0)
    names = pa.array([f"annotator-{m}" for m in range(ANNOTATORS)])
    schema = pa.schema(
        [
            ("item_id", pa.string()),
            ("theory", pa.string()),
            ("annotator", pa.dictionary(pa.int32(), pa.string())),
            ("score", pa.float64()),
        ]
    )
    with pq.ParquetWriter(path, schema) as file:
        for start in range(0, items, CHUNK):
            count = min(CHUNK, items - start)
            ids = pa.array([f"{start + i:08x}" for i in range(count)])
            centre = np.where(random.random(count) < 0.5, 0.6, 0.4)
            for m in range(ANNOTATORS):
                score = np.clip(centre + (0.1 + 0.02 * m) * random.standard_normal(count), 0.0, 1.0)
                annotator = pa.DictionaryArray.from_arrays(np.full(count, m, dtype=np.int32), names)
                columns = [ids, pa.repeat("commonsense", count), annotator, score]
                file.write_table(pa.table(columns, schema=schema))


def test_a_hundred_million_scores(tmp_path: Path) -> None:
    scores = int(os.environ.get("CONSILIENCE_SCORES", 100_000_000))
    write_scores(tmp_path / "annotations.parquet", scores // ANNOTATORS)
    arguments = ["--annotations", str(tmp_path / "annotations.parquet"), "--out", str(tmp_path / "run")]
    started = time.perf_counter()
    peaks: dict[int, float] = {}
    done = threading.Event()
    watch = threading.Thread(target=_watch_shards, args=(peaks, done))
    watch.start()
    try:
        assert main(JOB, [*arguments, "--set", "shards=2", "--set", "shard_above=0"]) == 0
    finally:
        done.set()
        watch.join()
    seconds = time.perf_counter() - started
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    ray.shutdown()
    print(f"\n{scores:,} scores, 2 shard actors: {seconds:.0f} s in all, {summary['iterations']} iterations")
    print(f"peak memory: driver {driver:.1f} GiB, shards {', '.join(f'{peak:.1f}' for peak in peaks.values())} GiB")
    assert summary["converged"]
    assert summary["items"] == scores // ANNOTATORS


def _watch_shards(peaks: dict[int, float], done: threading.Event) -> None:
    """Keep the largest resident memory in GiB of every shard actor, by process id."""
    while not done.wait(1.0):
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "EMShard" in " ".join(process.cmdline()):
                    used = process.memory_info().rss / 2**30
                    peaks[process.pid] = max(used, peaks.get(process.pid, 0.0))
