"""`pytest --faults docs/faults.md`: what the tests marked `fault` have found goes into that page's table."""

from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import fault_table
import pytest

FOUND = pytest.StashKey[dict[fault_table.Cell, list[tuple[str, float]]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=Path, metavar="PAGE", help="write the table of survived losses into this page")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FOUND] = defaultdict(list)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what became of a job that lost a part: the marker's outcome, or the one that the test recorded."""
    report = yield
    page: Path | None = item.config.getoption("--faults")
    if page is not None and (report.failed or (report.when == "call" and report.passed)):
        found = item.config.stash[FOUND]
        for mark in item.iter_markers("fault"):
            job, part, outcome = mark.args
            outcome = "failed" if report.failed else dict(item.user_properties).get("outcome", outcome)
            found[job, part].append((outcome, report.duration))
            fault_table.write(page, {(job, part): _shown(found[job, part])})
    return report


def _shown(tests: list[tuple[str, float]]) -> str | None:
    """A cell of several tests; None where one has failed."""
    outcomes = dict.fromkeys(outcome for outcome, _ in tests)
    if "failed" in outcomes:
        return None
    return f"{', '.join(outcomes)}, {max(seconds for _, seconds in tests):.0f} s"
