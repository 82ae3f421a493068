"""Known vulnerabilities of the locked packages, as PyPI's advisories have them; read by pip-audit.

Exit code: 0 none known, 1 some, 3 the advisories could not be had.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOOL = "pip-audit@2.10.1"
LOCKS = (ROOT / "requirements.lock", ROOT / "requirements-models.txt")


def audit(*requirements: Path) -> list[dict[str, Any]] | str:
    """pip-audit's findings, one per package, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", f"--output={report}"]
        command = [Path(sys.executable).parent / "uv", "tool", "run", TOOL, *options]
        for path in requirements:
            command += ["--requirement", path]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=900)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if not report.exists():
            return (run.stderr.strip().splitlines() or ["no word from pip-audit"])[-1][:200]
        found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    for package in found:
        if "skip_reason" in package:
            return f"{package['name']}: {package['skip_reason']}"
    return found


def main() -> int:
    """Audit; see the head of this file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (torch,) = [line for line in project["dependencies"] if line.startswith("torch==")]
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "torch.txt"  # not in the lock: its build depends on the machine
        alone.write_text(f"{torch}\n", encoding="utf-8")
        found = audit(alone)  # one package first: where there are no advisories, the others are not asked for
        if not isinstance(found, str):
            found = audit(alone, *LOCKS)
    if isinstance(found, str):
        print(f"audit: not done, no advisories to be had here ({found})")
        return 3
    for package in found:
        for problem in package["vulns"]:
            fixed = ", ".join(problem["fix_versions"]) or "no version"
            print(f"audit: {package['name']} {package['version']}: {problem['id']}, fixed in {fixed}")
    vulnerable = sum(bool(package["vulns"]) for package in found)
    print(f"audit: {len(found)} packages, {vulnerable} with a known vulnerability")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
