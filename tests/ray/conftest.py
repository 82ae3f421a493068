"""A real local Ray cluster of two cores, one for all tests of this folder."""

import os
from collections.abc import Iterator

import pytest
import ray

from actors.cluster import connect

# Ray gives its workers a low priority, which starves them where anything else runs beside the tests.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    connect()
    yield
    ray.shutdown()
