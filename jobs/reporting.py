"""How far a job is, told to those who do not see its terminal: Prometheus, Ray's table of jobs, readers of JSON logs.

All of it is about the process that calls it, a job's driver. Ray is used where the process has joined a cluster
already, and never joined for it.
"""

import json
import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

LOG_VARIABLE = "CONSILIENCE_LOG"
"""Environment variable: `json` makes each line about progress an object of its own; anything else, words."""

_TELL_EVERY_SECONDS = 10.0
_gauges: dict[str, Any] = {}


class Report:
    """The progress of one stage.

    Args:
        stage: its name.
        done: units that were finished before, which say nothing of the speed.
    """

    def __init__(self, stage: str, done: int = 0) -> None:
        self._stage = stage
        self._before = done
        self._started = self._told = time.monotonic()

    def tell(self, done: int, total: int, log: bool = True) -> None:
        """Say that `done` of `total` units are finished.

        Prometheus hears each call; the log, if `log`, and Ray's table of jobs hear one in ten seconds.
        """
        with suppress(Exception):  # what cannot be told is no reason to end a job
            _count(self._stage, done, total)
        now = time.monotonic()
        if now - self._told < _TELL_EVERY_SECONDS:
            return
        self._told = now
        rate = (done - self._before) / (now - self._started)
        left = timedelta(seconds=round((total - done) / rate)) if rate > 0 else None
        words = f"{self._stage}: {done}/{total}, {rate:.1f}/s, {'unknown' if left is None else left} left"
        if log:
            say(words, self._stage, done, total, rate_per_second=round(rate, 3))
        self._list(words, done, total)

    def end(self, done: int, total: int, log: bool = True) -> None:
        """Say that the stage is over."""
        seconds = time.monotonic() - self._started
        words = f"{self._stage}: {done}/{total} in {seconds:.1f} s"
        if log:
            say(words, self._stage, done, total, seconds=round(seconds, 3))
        self._list(words, done, total)

    def _list(self, words: str, done: int, total: int) -> None:
        with suppress(Exception):  # nor this
            _list(words, {f"progress {self._stage}": f"{done}/{total}"})


def say(words: str, stage: str, done: int, total: int, **more: Any) -> None:
    """One line to stderr: `words`, or an object with time, run, stage, done, total and whatever else is known."""
    if os.environ.get(LOG_VARIABLE) == "json":
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        words = json.dumps({"time": now, "run": run_id(), "stage": stage, "done": done, "total": total, **more})
    print(words, file=sys.stderr, flush=True)


def run_id() -> str:
    """The submission's id under `ray job submit`, else the id that Ray gave the driver, else `local`."""
    if submission := _submission():
        return submission
    ray = _joined()
    return "local" if ray is None else str(ray.get_runtime_context().get_job_id())


def _joined() -> Any:
    """The module `ray` if this process has joined a cluster."""
    ray = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() else None


def _submission() -> str | None:
    given = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    submission: str | None = (given.get("metadata") or {}).get("job_submission_id")
    return submission


def _count(stage: str, done: int, total: int) -> None:
    """Gauges `consilience_job_done` and `consilience_job_total`, which Ray exports with `ray_` before their names."""
    if _joined() is None:
        return
    from ray.util.metrics import Gauge

    for name, meaning, value in (
        ("consilience_job_done", "Units of a job's stage that are finished.", done),
        ("consilience_job_total", "Units of a job's stage in all.", total),
    ):
        if name not in _gauges:
            _gauges[name] = Gauge(name, description=meaning, tag_keys=("run", "stage"))
        _gauges[name].set(value, tags={"run": run_id(), "stage": stage})


def _list(words: str, metadata: dict[str, str]) -> None:
    """The message that `ray job status` shows while a job runs, and more metadata in `ray job list`.

    Ray has no public call for it: the job's record is read, changed and written back. Ray itself writes it when a job
    starts and after its driver has ended, so the two do not meet.
    """
    submission = _submission()
    if submission is None or _joined() is None:
        return
    from ray._private.ray_constants import KV_NAMESPACE_JOB
    from ray.dashboard.modules.job.common import JobInfoStorageClient
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

    key = JobInfoStorageClient.JOB_DATA_KEY.format(job_id=submission)
    record = _internal_kv_get(key, namespace=KV_NAMESPACE_JOB)
    facts = json.loads(record) if record else {}
    if facts.get("status") == "RUNNING":
        facts |= {"message": words, "metadata": {**(facts.get("metadata") or {}), **metadata}}
        _internal_kv_put(key, json.dumps(facts), namespace=KV_NAMESPACE_JOB)
