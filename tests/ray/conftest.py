"""A real local Ray cluster of two cores, one for all tests of this folder."""

from collections.abc import Iterator

import pytest
import ray

from actors.cluster import connect


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    connect()
    yield
    ray.shutdown()
