"""Joining the Ray cluster: the one that a job runs in, or a local one on loopback."""

import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

import ray
from ray._private import auto_init_hook, ray_constants
from ray.data import DataContext
from ray.exceptions import RayTaskError

from consilience.errors import UserError

KEEP_FREED_MEMORY = "glibc.malloc.mmap_threshold=67108864:glibc.malloc.trim_threshold=268435456:glibc.malloc.hugetlb=1"
"""glibc gives large tensors back to the kernel, which hands them out page by page: a tenth of a forward pass."""

_own = ""
"""Address of the local cluster that `connect` has started."""


def connect(cpus: float = 0, gpus: float = 0) -> None:
    """Connect once per process. `ray job submit` sets the address; without one a local cluster starts.

    A local cluster listens on loopback only, and Ray 2.60 turns token authentication on for it.

    Args:
        cpus, gpus: what the work needs at once. Another cluster may grow; a local one never will.

    Raises:
        UserError: a local cluster has fewer, and the work would wait for ever.
    """
    global _own
    logging.getLogger("ray").setLevel(logging.ERROR)
    auto_init_hook.enable_auto_connect = False  # a thread that outlives its cluster must not start another
    if not ray.is_initialized():
        options: dict[str, Any] = {"address": os.environ.get("RAY_ADDRESS")}
        if not options["address"]:
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            os.environ.setdefault("GLIBC_TUNABLES", KEEP_FREED_MEMORY)
            # Ray 2.60 would show all GPUs to a worker that asks for none.
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
            # Without "local" Ray joins the last cluster started here, dead or alive.
            options = {"address": "local", "include_dashboard": False}
            _listen_on_loopback_only()
        stop = signal.getsignal(signal.SIGTERM)
        ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
        signal.signal(signal.SIGTERM, stop)  # Ray puts one in its place that aborts the process
        if options["address"] == "local":
            _own = ray.get_runtime_context().gcs_address
    if ray.get_runtime_context().gcs_address == _own:
        _check_room(cpus, gpus)
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.CRITICAL)  # its errors are raised too
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # a user's mistake stays one


def _check_room(cpus: float, gpus: float) -> None:
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for key, kind, wanted in (("num_cpus", "CPU", cpus), ("num_gpus", "GPU", gpus)):
        if wanted > (found := there.get(kind, 0)):
            raise UserError(
                f"{key}: {wanted:g} wanted at once, {found:g} here; expected no more, or a cluster's address"
            )


def _listen_on_loopback_only() -> None:
    """Ray listens on every interface on Linux; its switch for macOS and Windows is read when `ray` is imported."""
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def gather(results: Sequence[Any]) -> list[Any]:
    """The values behind `results`; a user's mistake found in an actor is raised as itself, one line, no traceback."""
    try:
        return ray.get(list(results))
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
