"""A real local Ray cluster of two cores, one for all tests of this folder; and small jobs that have run on it."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
import ray

from actors.cluster import connect

if TYPE_CHECKING:
    from small_jobs import Case

# Ray gives its workers a low priority, which starves them where anything else runs beside the tests.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Callable[[str], Case]]":
    """A function of a job's name: the small job of that name, after a run in which nothing went wrong."""
    from small_jobs import SMALL, Case, ChatServer

    @cache
    def run(job: str) -> Case:
        folder = tmp_path_factory.mktemp(job)
        config = folder / "config.json"
        config.write_text(json.dumps(SMALL[job].write(folder, server.url)), encoding="utf-8")
        case = Case(job, SMALL[job], config, folder / "whole", server, Counter())
        assert case.run(case.whole) == 0
        return case

    with pytest.MonkeyPatch.context() as patch, ChatServer(latency=0.15).running() as server:
        patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield run


@pytest.fixture
def case(request: pytest.FixtureRequest, undisturbed: "Callable[[str], Case]") -> "Case":
    """The small job that the test's parameter `job` names."""
    found = undisturbed(request.node.callspec.params["job"])
    return replace(found, billed=Counter(found.server.billed))
