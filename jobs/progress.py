"""Progress of long work: a bar with rate and time left on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_LOG_EVERY_SECONDS = 10.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "--/s")


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of units just finished; `done` were finished before."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with Progress(*columns) as bar:
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
