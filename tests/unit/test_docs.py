"""What the pages say can be run: commands, files and keys that are there; the reference of config keys is current."""

import re
from pathlib import Path

import pytest
from ray.dashboard.modules.job.cli import job_cli_group
from shell_lines import JOBS, ROOT, commands, read_job_command

from jobs.config_reference import render

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "cluster/README.md"])
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def check(words: list[str]) -> None:
    """That a command could start: what it names exists, and a job reads its line."""
    if words[:3] == ["ray", "job", "submit"]:
        if words[-1] == "--":
            return  # a sentence's "put this before the line"
        submit = job_cli_group.commands["submit"]
        words = list(submit.make_context("submit", words[3:]).params["entrypoint"])
    if words[0] == "pytest":
        assert (ROOT / words[1]).exists(), words[1]
        return
    module = words[2]
    if module.startswith("jobs.") and module != "jobs.config_reference":
        read_job_command(words)
    else:
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=shown)
def test_every_command_could_start(page: Path) -> None:
    for words in commands(page):
        check(words)


def test_every_job_is_shown_in_use() -> None:
    found = {word for page in PAGES for words in commands(page) for word in words}
    assert {f"jobs.{job}" for job in JOBS} <= found


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_reference_of_config_keys_is_current() -> None:
    written = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    assert written == render(), "run python -m jobs.config_reference > docs/config.md"
