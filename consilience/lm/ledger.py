"""Answers that were paid for and what they cost, on disk, so that a killed process pays for none of them again."""

import json
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from consilience.errors import UserError
from consilience.files import digest_json, write_text


class Ledger:
    """Append-only JSON lines in a folder, one file per process that wrote there.

    A line is a change of the cost, in US dollars, with the answer where there is one: the highest price of a request
    before it is sent, the difference to its real price once that is known. So the sum of a folder is never below
    what was spent, whenever the process dies. An answer is flushed to the device before it is used.

    Attributes:
        cost_usd: sum of all lines, requests in flight at their highest price.
    """

    def __init__(self, folder: Path) -> None:
        self.cost_usd = 0.0
        self._folder = folder
        self._path = _new_path(folder)
        self._salt: str | None = None
        self._places: dict[str, tuple[Path, int]] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for offset, line in _lines(path):
                self.cost_usd += line["usd"]
                if "answer" in line:
                    self._places[line["key"]] = (path, offset)

    def answer(self, key: str) -> dict[str, Any] | None:
        """The answer to the request `key`, or None if none was paid for."""
        if key not in self._places:
            return None
        path, offset = self._places[key]
        with path.open("rb") as file:
            file.seek(offset)
            answer: dict[str, Any] = json.loads(file.readline())["answer"]
        return answer

    def idempotency_key(self, key: str) -> str:
        """The request's name at the server: the same for every process that works in this folder, another elsewhere.

        So what was in flight when a process was killed is not charged twice, and a request made a second time on
        purpose, in a folder of its own, is answered anew.

        Raises:
            UserError: the folder cannot be written.
        """
        if self._salt is None:
            path = self._folder / "salt"
            if not path.exists():
                write_text(path, uuid.uuid4().hex)
            self._salt = path.read_text()
        return digest_json([self._salt, key])

    def reserve(self, key: str, usd: float) -> None:
        """Record, before it is sent, the most that a request can cost.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        if usd:
            self._append({"key": key, "usd": usd})

    def settle(self, key: str, reserved: float, usd: float, answer: dict[str, Any] | None) -> None:
        """Record what a reserved request cost, and its answer where one came.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        line = {"key": key, "usd": usd - reserved}
        if answer is not None:
            self._places[key] = self._append({**line, "answer": answer})
        elif usd != reserved:
            self._append(line)

    def _append(self, line: dict[str, Any]) -> tuple[Path, int]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                place = (self._path, file.tell())
                file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
                file.flush()
                if "answer" in line:
                    os.fsync(file.fileno())
        except OSError as error:
            self._path = _new_path(self._folder)  # the last line of the old file may be torn
            raise UserError(f"{self._folder}: cannot be written: {error.strerror or error}") from error
        self.cost_usd += line["usd"]
        return place


def spent_usd(folder: Path) -> float:
    """Cost in all ledgers in and below `folder`, in US dollars; 0 where there are none."""
    return max(0.0, math.fsum(line["usd"] for path in folder.rglob("*.jsonl") for _, line in _lines(path)))


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Whole lines with their offsets; the line that a killed process was writing is left out."""
    offset = 0
    with path.open("rb") as file:
        for text in file:
            if text.endswith(b"\n"):
                yield offset, json.loads(text)
            offset += len(text)


def _new_path(folder: Path) -> Path:
    return folder / f"{uuid.uuid4().hex}.jsonl"
