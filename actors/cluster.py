"""Joining the Ray cluster: the one that a job runs in, or a local one on loopback."""

import logging

import ray
from ray.data import DataContext


def connect() -> None:
    """Connect once per process. `ray job submit` sets the address; without one a local cluster starts.

    Ray 2.60 turns token authentication on for local clusters and binds them to 127.0.0.1.
    """
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING, include_dashboard=False, log_to_driver=False)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
