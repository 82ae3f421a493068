"""Progress of long work: a bar with rate and time left on a terminal, a line now and then in a log."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

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

_LOG_EVERY_SECONDS = 10.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "--/s")


def _columns() -> tuple[ProgressColumn, ...]:
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of units just finished; `done` were finished before."""
    if sys.stderr.isatty():
        with Progress(*_columns(), _Rate()) as bar:
            task = bar.add_task(label, total=total, completed=done)
            yield lambda units: bar.advance(task, units)
        return
    started = last = time.monotonic()
    finished = 0

    def advance(units: int) -> None:
        nonlocal finished, last
        finished += units
        now = time.monotonic()
        if now - last >= _LOG_EVERY_SECONDS:
            last = now
            rate = finished / (now - started)
            left = timedelta(seconds=round((total - done - finished) / rate)) if rate else "unknown"
            print(f"{label}: {done + finished}/{total}, {rate:.1f}/s, {left} left", file=sys.stderr, flush=True)

    yield advance
    print(f"{label}: {done + finished}/{total} in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


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
    with Progress(*columns, disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}
        shown: dict[str, Any] = {}
        last = time.monotonic()
        while True:
            ending = stop.wait(1.0)
            found = {path.parent.name: json.loads(path.read_text()) for path in _recent(storage, started)}
            for name, state in found.items():
                if name not in tasks:
                    tasks[name] = bar.add_task(name, note="")
                bar.update(tasks[name], completed=state["done"], total=state["total"], note=state["note"])
            if bar.disable and (ending or time.monotonic() - last >= _LOG_EVERY_SECONDS):
                last = time.monotonic()
                for name, state in found.items():
                    if shown.get(name) != state:
                        print(f"{name}: {state['done']}/{state['total']} {state['note']}", file=sys.stderr, flush=True)
                shown = found
            if ending:
                return


def _recent(storage: Path, started: float) -> list[Path]:
    return [path for path in sorted(storage.glob(f"*/{PROGRESS}")) if path.stat().st_mtime >= started]
