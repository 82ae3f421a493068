"""Finding and killing the processes of a Ray cluster that tests have started."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil


class Host(NamedTuple):
    """Processes that do a job's work, and how it is known that they are in the middle of it.

    Attributes:
        title: part of the name that Ray gives the process, such as RayTrainWorker.
        after: pattern of files in the run folder, `count` of which have been written by then.
    """

    title: str
    after: str = ""
    count: int = 1


TRAINER = Host("RayTrainWorker", "checkpoint_*")
"""The workers of a training, in its own folder, after their first checkpoint."""


def processes(title: str, root: psutil.Process | None = None) -> list[psutil.Process]:
    """Processes below `root`, by default this one, whose title holds `title`."""
    found = []
    for process in (root or psutil.Process()).children(recursive=True):
        with suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


def at_work(host: Host, run: Path, root: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes of `host` once they are in the middle of the job that writes the folder `run`, else none."""
    if host.after and len([path for path in run.glob(host.after) if path.name[0] != "."]) < host.count:
        return []
    return processes(host.title, root)


def wait_for(look: Callable[[], list[psutil.Process]], alive: Callable[[], bool]) -> list[psutil.Process]:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + 300
    while not (found := look()):
        assert alive(), "the job ended before anything was killed"
        assert time.monotonic() < deadline, "nothing to kill was seen"
        time.sleep(0.02)
    return found


@contextmanager
def killing(look: Callable[[], list[psutil.Process]], most: int | None = 1) -> Iterator[list[int]]:
    """While the block runs: SIGKILL the first `most` processes (None: all) that `look` finds, once.

    Yields:
        a list that holds their ids afterwards.
    """
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not killed and not over.wait(0.02):
            for process in look()[:most]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    killed.append(process.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()
