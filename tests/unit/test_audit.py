"""The audit of dependencies: what it finds, and that silence is not taken for safety."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CLEAN = {"name": "torch", "version": "2.13.0", "vulns": []}
BAD = {"name": "jinja2", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1"], "aliases": []}]}
UNKNOWN = {"name": "own", "skip_reason": "not found"}


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([CLEAN], 0, "1 packages, 0 with a known vulnerability"),
        ([CLEAN, BAD], 1, "jinja2 2.0: PYSEC-1, fixed in 3.1"),
        ([CLEAN, UNKNOWN], 3, "not done, no advisories to be had here (own: not found)"),
        (None, 3, "not done, no advisories to be had here (no such host)"),
    ],
)
def test_what_is_found(
    audit: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: list[dict[str, Any]] | None,
    code: int,
    said: str,
) -> None:
    uv = tmp_path / "uv"
    report = json.dumps({"dependencies": found, "fixes": []})
    write = f"open(out, 'w').write({report!r})" if found is not None else "sys.exit('no such host')"
    uv.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "assert 'pip-audit@' in sys.argv[3]\n"
        "out = next(word for word in sys.argv if word.startswith('--output=')).removeprefix('--output=')\n"
        f"{write}\n"
    )
    uv.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert audit.main() == code
    assert said in capsys.readouterr().out


def test_without_the_tool(
    audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert audit.main() == 3
    assert "not done" in capsys.readouterr().out
