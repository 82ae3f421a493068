"""Joining the Ray cluster: the one that a job runs in, or a local one on loopback."""

import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

import ray
from ray.data import DataContext
from ray.exceptions import RayTaskError

from consilience.errors import UserError


def connect() -> None:
    """Connect once per process. `ray job submit` sets the address; without one a local cluster starts.

    Ray 2.60 turns token authentication on for local clusters and binds them to 127.0.0.1.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    if not ray.is_initialized():
        if "RAY_ADDRESS" not in os.environ:
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        stop = signal.getsignal(signal.SIGTERM)
        ray.init(logging_level=logging.ERROR, include_dashboard=False, log_to_driver=False)
        signal.signal(signal.SIGTERM, stop)  # Ray puts one in its place that aborts the process
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def gather(results: Sequence[Any]) -> list[Any]:
    """The values behind `results`; a user's mistake found in an actor is raised as itself, one line, no traceback."""
    try:
        return ray.get(list(results))
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
