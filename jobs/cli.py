"""The command line that every job shares: read config, open the run folder, run, report, exit code."""

import argparse
import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import yaml
from pydantic_core import PydanticUndefined
from rich.console import Console

from consilience.config import Config, load_config
from consilience.errors import UserError, one_line
from consilience.runs import Run
from jobs.reporting import logs_json, run_id, say

C = TypeVar("C", bound=Config)
Summary = dict[str, float | int | str | bool | None]

console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 100)


@dataclass(frozen=True)
class Job(Generic[C]):
    """A job: its config type, what `--dry-run` says, and the function that does the work.

    Attributes:
        plan: validates inputs and model sources without changing anything; returns lines to print.
        execute: does the work in the run folder and returns the summary; raises UserError for the user's mistakes.
        inputs: config keys that are command-line flags too.
        show: called with the finished run folder, to present the result.
    """

    name: str
    description: str
    config: type[C]
    plan: Callable[[C], Sequence[str]]
    execute: Callable[[C, Run], Summary]
    inputs: Sequence[str]
    show: Callable[[Path], None] | None = None


def main(job: Job[C], argv: Sequence[str] | None = None) -> int:
    """Run `job` from the command line. Returns 0 done, 2 the user's mistake, 1 anything else."""
    arguments = _parser(job).parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    overrides = [f"{name}={_literal(value)}" for name in job.inputs if (value := getattr(arguments, name)) is not None]
    try:
        config = load_config(job.config, arguments.config, [*overrides, *arguments.set])
        if arguments.dry_run:
            for line in job.plan(config):
                console.print(line, markup=False)
            return 0
        if arguments.out is None:
            raise UserError("--out: missing; expected a folder for the results")
        job.plan(config)
        with Run.open(arguments.out, job.name, config.model_dump(mode="json")) as run, _unwrapped():
            run.record(run_id=run_id())
            run.summarise(job.execute(config, run))
        if job.show is not None:
            job.show(arguments.out)
        return 0
    except UserError as error:
        say(f"error: {one_line(error)}", status="failed", exit_code=2)
        return 2
    except KeyboardInterrupt:
        resumes = "" if arguments.dry_run else f"; the same command resumes it: {arguments.out}"
        say(f"stopped{resumes}", status="interrupted", exit_code=1)
        return 1
    except Exception as error:
        trace = {"traceback": traceback.format_exc()} if logs_json() else {}
        if not trace:
            traceback.print_exc()
        say(f"failed: {_reason(error)}; the same command resumes it", status="failed", exit_code=1, **trace)
        return 1


def show_report(folder: Path) -> None:
    """Write the report page of a consensus and print its result table."""
    # Here, because plotting takes seconds to import and a dry run needs none of it.
    from consilience.report.page import write_report
    from consilience.report.terminal import print_result

    write_report(folder)
    print_result(folder, console)


def rounded(value: float | None) -> float | None:
    """As a summary holds it: to four decimals; None where it is missing or not finite."""
    return None if value is None or not math.isfinite(value) else round(value, 4)


@contextmanager
def _unwrapped() -> Iterator[None]:
    """A user's mistake that was found in a task or an actor is raised as itself, without Ray's errors around it."""
    try:
        yield
    except Exception as error:
        mistake = _mistake(error)
        if mistake is None or mistake is error:
            raise
        raise UserError(str(mistake).split("\n")[0]) from None  # Ray Data adds lines of its own


def _mistake(error: BaseException) -> UserError | None:
    """The user's mistake that `error` is or carries: as a task's cause, a worker's failure, or `raise ... from`."""
    carried = [getattr(error, "cause", None), getattr(error, "_base_exc", None), error.__cause__]
    if isinstance(error, UserError) and carried[0] is None:
        return error
    carried += getattr(error, "worker_failures", {}).values()
    found = (_mistake(other) for other in carried if isinstance(other, BaseException))
    return next((mistake for mistake in found if mistake is not None), None)


def _reason(error: BaseException) -> str:
    """Type and first line of what went wrong, without Ray's and Ray Train's errors around it."""
    carriers = ("cause", "controller_failure")
    while causes := [each for name in carriers if isinstance(each := getattr(error, name, None), BaseException)]:
        error = causes[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])


def _literal(value: str) -> str:
    """What exists is named as it stands, whatever YAML would make of a `#` or a colon in its name."""
    return json.dumps(value, ensure_ascii=False) if os.path.exists(value) else value


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser(job: Job[Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m jobs.{job.name}",
        description=job.description,
        epilog=f"config keys:\n{_describe_keys(job.config)}\n\n"
        "A key within a block is BLOCK.KEY, in a list LIST.0; docs/config.md has all of them. See docs/jobs.md.\n"
        "exit codes: 0 done, 2 mistake in input, 1 other",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with the keys below")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder; the same folder again resumes the run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="override a config key (repeatable)"
    )
    parser.add_argument("--dry-run", action="store_true", help="check config, files and models, say what would be done")
    for name in job.inputs:
        parser.add_argument(
            f"--{name.replace('_', '-')}", dest=name, metavar="VALUE", help=f"same as --set {name}=VALUE"
        )
    return parser


def _describe_keys(config: type[Config]) -> str:
    lines = []
    for name, field in config.model_fields.items():
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        lines.append(f"  {name:<18} {field.description or ''} [{default}]")
    return "\n".join(lines)


def _shown(default: Any) -> str:
    if default is None or default is PydanticUndefined:
        return "none"
    if isinstance(default, Config):
        default = default.model_dump(mode="json")
    return yaml.safe_dump(default, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
