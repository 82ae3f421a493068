"""Which part of which job may be lost, as tests have found it: the table of docs/faults.md, written and read back."""

from collections.abc import Mapping
from pathlib import Path

PARTS = ("model actor", "shard actor", "training worker", "worker node", "driver", "head")
EVERYWHERE = ("worker node", "driver", "head")
JOBS: dict[str, tuple[str, ...]] = {
    "annotate": ("model actor", *EVERYWHERE),
    "aggregate": ("shard actor", *EVERYWHERE),
    "realign": ("shard actor", "training worker", *EVERYWHERE),
    "train_values": ("training worker", *EVERYWHERE),
    "train_agents": ("model actor", "training worker", *EVERYWHERE),
    "train_aggregator": ("model actor", "training worker", *EVERYWHERE),
    "evaluate": ("model actor", *EVERYWHERE),
    "calibrate": ("model actor", "training worker", *EVERYWHERE),
    "augment": ("model actor", "training worker", *EVERYWHERE),
    "pipeline": ("model actor", "shard actor", "training worker", *EVERYWHERE),
}
"""Every job, and which of `PARTS` it has."""

Cell = tuple[str, str]
_BEGIN, _END = "<!-- written by pytest --faults -->", "<!-- to here -->"


def read(page: Path) -> dict[Cell, str]:
    """What the page's table says of each (job, part) that a test has tried."""
    table = page.read_text(encoding="utf-8").split(_BEGIN)[1].split(_END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    return {
        (row[0].strip("`"), part): text
        for row in rows[2:]
        for part, text in zip(rows[0][1:], row[1:], strict=True)
        if text not in ("", "-")
    }


def write(page: Path, found: Mapping[Cell, str | None]) -> None:
    """Put `found` into the page's table; what it says of other cells stays. None empties a cell.

    Raises:
        ValueError: `found` has a cell that the table does not have.
    """
    for job, part in found:
        if part not in JOBS.get(job, ()):
            raise ValueError(f"fault({job!r}, {part!r}): no such cell; expected a job and a part of it")
    cells = {**read(page), **found}
    rows = [["job", *PARTS], ["---"] * (1 + len(PARTS))]
    rows += [
        [f"`{job}`", *((cells.get((job, part)) or "") if part in has else "-" for part in PARTS)]
        for job, has in JOBS.items()
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    before, after = (page.read_text(encoding="utf-8").split(mark) for mark in (_BEGIN, _END))
    page.write_text(f"{before[0]}{_BEGIN}\n{table}\n{_END}{after[1]}", encoding="utf-8")
