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
from functools import cache
from typing import Any

LOG_VARIABLE = "CONSILIENCE_LOG"
"""Environment variable: `json` makes each line that a job says to stderr an object of its own; anything else, words."""

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

    def tell(self, done: int, total: int, cost_usd: float | None = None, log: bool = True) -> None:
        """Say that `done` of `total` units are finished and what they cost so far; None where nothing has a price.

        Prometheus hears each call; the log, if `log`, and Ray's table of jobs hear one in ten seconds.
        """
        with suppress(Exception):  # what cannot be told is no reason to end a job
            _count(self._stage, done, total, cost_usd)
        now = time.monotonic()
        if now - self._told < _TELL_EVERY_SECONDS:
            return
        self._told = now
        rate = (done - self._before) / (now - self._started)
        left = round((total - done) / rate) if rate > 0 else None
        words = f"{self._stage}: {done}/{total}, {rate:.1f}/s, "
        words += f"{'unknown' if left is None else timedelta(seconds=left)} left{price(cost_usd)}"
        self._say(words, done, total, cost_usd, log, rate_per_second=round(rate, 3), seconds_left=left)

    def end(self, done: int, total: int, cost_usd: float | None = None, log: bool = True) -> None:
        """Say that the stage is over."""
        seconds = time.monotonic() - self._started
        words = f"{self._stage}: {done}/{total} in {seconds:.1f} s{price(cost_usd)}"
        self._say(words, done, total, cost_usd, log, seconds=round(seconds, 3))

    def _say(self, words: str, done: int, total: int, cost_usd: float | None, log: bool, **more: Any) -> None:
        if log:
            say(words, stage=self._stage, done=done, total=total, **more, cost_usd=cost_usd)
        facts = {f"progress {self._stage}": f"{done}/{total}"}
        if cost_usd is not None:
            facts[f"cost_usd {self._stage}"] = f"{cost_usd:.6f}"
        with suppress(Exception):  # nor this
            _list(words, facts)


def price(cost_usd: float | None) -> str:
    """What follows the other words on a stage; nothing where nothing has a price."""
    return "" if cost_usd is None else f", {cost_usd:.4f} USD so far"


def logs_json() -> bool:
    """Whether a job's lines are to be JSON."""
    return os.environ.get(LOG_VARIABLE) == "json"


def say(words: str, **facts: Any) -> None:
    """One line to stderr: `words`, or an object with time (UTC), run, message and `facts`."""
    if logs_json():
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        words = json.dumps({"time": now, "run": run_id(), "message": words, **facts})
    print(words, file=sys.stderr, flush=True)


def run_id() -> str:
    """The submission's id under `ray job submit`, else an id of this process; the manifest holds it as `run_id`."""
    return _submission() or _process_id()


@cache
def _process_id() -> str:
    return f"local-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"


def _joined() -> Any:
    """The module `ray` if this process has joined a cluster."""
    ray = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() else None


def _submission() -> str | None:
    given = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    submission: str | None = (given.get("metadata") or {}).get("job_submission_id")
    return submission


def _count(stage: str, done: int, total: int, cost_usd: float | None) -> None:
    """Gauges of the stage, which Ray exports with `ray_` before their names."""
    if _joined() is None:
        return
    from ray.util.metrics import Gauge

    for name, meaning, value in (
        ("consilience_job_done", "Units of a job's stage that are finished.", done),
        ("consilience_job_total", "Units of a job's stage in all.", total),
        ("consilience_job_cost_usd", "What a job has cost so far, in US dollars.", cost_usd),
    ):
        if value is None:
            continue
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
