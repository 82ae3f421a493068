"""The table of losses in docs/faults.md: several runs of the tests fill it, and a test that fails empties its cell."""

from pathlib import Path

import pytest
from fault_table import JOBS, PARTS, read, write
from shell_lines import JOBS as MODULES

ROOT = Path(__file__).parents[2]
PAGE = "Before.\n\n<!-- written by pytest --faults -->\n| job |\n| --- |\n<!-- to here -->\n\nAfter.\n"


def test_runs_are_merged_and_a_failure_empties_its_cell(tmp_path: Path) -> None:
    page = tmp_path / "faults.md"
    page.write_text(PAGE, encoding="utf-8")
    write(page, {("annotate", "driver"): "resumed, 9 s", ("aggregate", "shard actor"): "finished, 2 s"})
    write(page, {("annotate", "driver"): None, ("pipeline", "head"): "resumed, 60 s"})
    assert read(page) == {("aggregate", "shard actor"): "finished, 2 s", ("pipeline", "head"): "resumed, 60 s"}
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Before.\n\n")
    assert text.endswith("\n\nAfter.\n")
    assert "| `aggregate` | - | finished, 2 s | - |  |  |  |" in text.splitlines()
    with pytest.raises(ValueError, match="fault\\('aggregate', 'training worker'\\): no such cell"):
        write(page, {("aggregate", "training worker"): "finished, 2 s"})


def test_every_job_has_a_row_and_the_page_a_table() -> None:
    assert sorted(JOBS) == MODULES
    assert all(part in PARTS for parts in JOBS.values() for part in parts)
    read(ROOT / "docs/faults.md")
