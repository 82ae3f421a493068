"""Rules of the house that a machine can keep: which way imports run, and what never appears."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = {"consilience": 0, "actors": 1, "jobs": 2, "serve_app": 2}
SOURCES = sorted(path for room in FLOORS for path in (ROOT / room).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        assert not (room == "consilience" and name == "ray"), "the library never imports ray"
        if name in FLOORS and name != room:
            assert FLOORS[name] < FLOORS[room], f"{room} must not import {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unsafe(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"trust_remote_code\s*=\s*True|\bpickle\b|torch\.load\(|yaml\.load\(", text)
