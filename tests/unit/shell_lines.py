"""Commands in Markdown: found, and jobs' commands read as the job itself would read them, without running anything."""

import importlib
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

from consilience.config import load_config
from jobs import cli

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if re.search(r"^JOB = Job\(", path.read_text(), re.M))


def commands(page: Path) -> list[list[str]]:
    """The commands in a page's code (Markdown), or in a file's comments, each as its words."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
        lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
        lines += [span.replace("\n", " ") for span in spans]
    else:
        comments = re.sub(r"\\\n\s*#\s*", " ", text).splitlines()
        lines = [line.lstrip(" #") for line in comments if line.lstrip().startswith("#")]
    found = []
    for line in lines:
        for name, value in re.findall(r"^(\w+)=(\S+)$", text, re.MULTILINE):
            line = line.replace(f"${name}", value)
        bare = re.sub(r"^\s*(?:[A-Z_]+=\S+ )*", "", line)
        if re.match(r"(?:ray job submit|python -m|pytest) \S", bare):
            found.append(shlex.split(bare, comments=True))
    return found


@cache
def job_of(name: str) -> cli.Job[Any]:
    """The job of module `jobs.NAME`."""
    return importlib.import_module(f"jobs.{name}").JOB


def read_job_command(words: list[str]) -> str:
    """Read `python -m jobs.NAME ...` as the job does: arguments, config file, every overridden key.

    Returns:
        the job's name.
    """
    assert words[:2] == ["python", "-m"], words
    name = words[2].removeprefix("jobs.")
    assert name in JOBS, f"{words[2]}: no such job"
    if "--help" in words:
        return name
    job = job_of(name)
    arguments = cli._parser(job).parse_args(
        [str(ROOT / word) if word.startswith("configs/") else word for word in words[3:]]
    )
    assert arguments.out is not None or arguments.dry_run, f"{shlex.join(words)}: no --out"
    overrides = [f"{key}={value}" for key in job.inputs if (value := getattr(arguments, key)) is not None]
    load_config(job.config, arguments.config, [*overrides, *arguments.set])
    return name
