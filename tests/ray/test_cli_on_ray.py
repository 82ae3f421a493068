"""A user's mistake that is found on another process ends a job as one that is found here: one line, exit code 2."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from consilience.config import Config
from consilience.errors import UserError
from consilience.runs import Run
from jobs.cli import Job, Summary, main

MISTAKE = "dilemmas.csv: row 3: no text"

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import it


def refuse(*_: Any) -> dict[str, Any]:
    raise UserError(MISTAKE)


class Refuser:
    """Refuses what it is given, as a callable of Ray Data and as an actor."""

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield refuse(batch)

    def refuse(self) -> None:
        refuse()


def task() -> None:
    ray.get(ray.remote(refuse).remote())


def nested_task() -> None:
    ray.get(ray.remote(task).remote())


def actor() -> None:
    refuser = ray.remote(Refuser).remote()
    ray.get(refuser.refuse.remote())


def ray_data() -> None:
    ray.data.range(4, override_num_blocks=2).map_batches(refuse).take_all()


def ray_data_actors() -> None:
    numbers = ray.data.range(4, override_num_blocks=2)
    for _ in numbers.map_batches(Refuser, batch_size=1, concurrency=1).iter_batches(batch_size=None):
        pass


def bug() -> None:
    ray.get(ray.remote(lambda: 1 / 0).remote())


def run(work: Callable[[], None], folder: Path) -> int:
    def execute(config: Config, run: Run) -> Summary:
        work()
        return {}

    return main(Job("thing", "Does a thing.", Config, lambda config: [], execute, inputs=()), ["--out", str(folder)])


@pytest.mark.parametrize("work", [task, nested_task, actor, ray_data, ray_data_actors], ids=lambda work: work.__name__)
def test_a_mistake_found_elsewhere_is_one_line(
    cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], work: Callable[[], None]
) -> None:
    assert run(work, tmp_path) == 2
    assert capsys.readouterr().err == f"error: {MISTAKE}\n"
    assert json.loads((tmp_path / "manifest.json").read_text())["reason"] == f"UserError: {MISTAKE}"


def test_a_bug_found_elsewhere_ends_with_one_line_too(
    cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bug, tmp_path) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "failed: ZeroDivisionError: division by zero; the same command resumes it"
