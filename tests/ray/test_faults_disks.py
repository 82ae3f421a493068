"""The disk of the run folder fills up, or cannot be written at all: said in one line, and nothing is lost."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_jobs import Case
from test_aggregate import annotations, save

from jobs import aggregate
from jobs.cli import main

pytestmark = pytest.mark.timeout(900)

MEGABYTE = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Make or change a disk of 8 MB, in memory; returns its folder."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={8 * MEGABYTE},{options}", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a disk")
        return place

    yield mount
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("job", "room", "status", "more"),
    [
        ("annotate", 150_000, 2, ()),
        ("train_values", 250_000, 1, ("--set", "workers.max_failures=0")),
    ],
)
def test_a_full_disk_is_told_and_freed_space_is_all_it_takes(
    case: Case,
    job: str,
    room: int,
    status: int,
    more: tuple[str, ...],
    disk: Callable[[str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Some of the work is done when the disk is full."""
    place = disk("rw")
    (place / "ballast").write_bytes(bytes(8 * MEGABYTE - room))
    assert case.run(place / "run", *more) == status
    told = capfd.readouterr().err
    last = told.strip().splitlines()[-1]
    assert "No space left on device" in last
    assert last.startswith("error: ") if status == 2 else last.endswith("; the same command resumes it")
    assert not (place / "run/summary.json").exists()
    (place / "ballast").unlink()
    assert case.run(place / "run", *more) == 0
    case.check(place / "run")


def test_a_folder_that_is_read_only_is_one_line(
    disk: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = save(annotations(20), tmp_path / "annotations.parquet")
    arguments = ["--annotations", str(table), "--out", str(disk("ro") / "run")]
    assert main(aggregate.JOB, arguments) == 2
    error = capsys.readouterr().err
    assert error == f"error: {tmp_path / 'disk/run'}: cannot be written: Read-only file system\n"
