"""Progress of long work: a bar with rate and time left on a terminal, else a line now and then; the cluster is told."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from consilience.workers import PROGRESS
from jobs.reporting import Report, logs_json, price, say

_LOG_EVERY_SECONDS = 10.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "--/s")


def _columns() -> tuple[ProgressColumn, ...]:
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


class Advance(Protocol):
    """Takes the number of units just finished, and what all have cost so far where they have a price."""

    def __call__(self, units: int, cost_usd: float | None = None) -> None: ...


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Yield a function to call as units finish; `done` of `total` were finished before."""
    bars = _bars()
    report = Report(label, done)
    finished = done
    cost: float | None = None
    columns = (*_columns(), _Rate(), TextColumn("{task.fields[cost]}"))
    with Progress(*columns, disable=not bars, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done, cost="")

        def advance(units: int, cost_usd: float | None = None) -> None:
            nonlocal finished, cost
            finished, cost = finished + units, cost_usd
            bar.update(task, advance=units, cost=price(cost).removeprefix(", "))
            report.tell(finished, total, cost, log=not bars)

        yield advance
    report.end(finished, total, cost, log=not bars)


def _bars() -> bool:
    return sys.stderr.isatty() and not logs_json()


@contextmanager
def watching(storage: Path) -> Iterator[None]:
    """Show how far the trainings in the folders of `storage` are, as they note it down, until the block ends."""
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(storage, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(storage: Path, stop: threading.Event) -> None:
    started = time.time()
    columns = (*_columns(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, disable=not _bars(), console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}
        reports: dict[str, Report] = {}
        shown: dict[str, Any] = {}
        last = time.monotonic()
        while True:
            ending = stop.wait(1.0)
            found = _states(storage, started)
            for name, state in found.items():
                if name not in tasks:
                    tasks[name] = bar.add_task(name, note="")
                    reports[name] = Report(name, state["done"])
                bar.update(tasks[name], completed=state["done"], total=state["total"], note=state["note"])
                reports[name].tell(state["done"], state["total"], log=False)
            if bar.disable and (ending or time.monotonic() - last >= _LOG_EVERY_SECONDS):
                last = time.monotonic()
                for name, state in found.items():
                    if shown.get(name) != state:
                        words = f"{name}: {state['done']}/{state['total']} {state['note']}"
                        say(words, stage=name, **state)
                shown = found
            if ending:
                return


def _states(storage: Path, started: float) -> dict[str, dict[str, Any]]:
    """What trainings have noted since `started`; the folder of one that has finished may go at any time."""
    found = {}
    for path in sorted(storage.glob(f"*/{PROGRESS}")):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime >= started:
                found[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
    return found
