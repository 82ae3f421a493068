"""The actor that hosts one model and judges batches of dilemmas as each of its annotators."""

import hashlib
import logging
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from consilience.errors import first_line
from consilience.lm.annotators import AnnotatorConfig
from consilience.lm.pool import annotator_digest, open_scorer
from consilience.lm.scorer import FAILED, Scorer, Scores
from consilience.table_schema import write_table
from consilience.tables import ANNOTATIONS
from consilience.theories import Theory

log = logging.getLogger(__name__)

COUNTS = ("annotator", "scored", "reused", "failed", "cost_usd", "stopped")
_GIVE_UP_AFTER = 3


class Annotator:
    """Callable for Ray Data: numbers of batches in, for each of them a row of counts per annotator out.

    A row says too what the annotator has cost in this run folder, in US dollars, 0 where it has no price, and why it
    has stopped, "" while it goes on.

    Batch k is the rows k * batch_size and on of the dilemmas table, which the actor reads itself: the driver holds only
    numbers, and reading needs no task that would wait for a CPU while all of them host models.

    Judgements go straight to disk, one Parquet part per batch and annotator in its `part_folder`, written
    atomically and named by what is in it. A row that is already on disk is never judged again, so a batch may be
    retried by Ray at any point and a job may be killed and started again. Judgements that failed are not written: the
    next run tries them again. Ray pins torch's threads to the actor's `num_cpus`.
    """

    def __init__(
        self,
        annotators: Sequence[AnnotatorConfig],
        theories: Sequence[Theory],
        dilemmas: Path,
        batch_size: int,
        parts: Path,
        answers: Path,
    ) -> None:
        self._dilemmas = pq.ParquetFile(dilemmas)
        self._ends = row_group_ends(self._dilemmas)
        self._read_last: tuple[range, pa.Table] = (range(0), pa.table({}))
        self._batch_size = batch_size
        self._theories = tuple(theories)
        self._folders = {config.annotator: part_folder(parts, config) for config in annotators}
        self._digests = {config.annotator: annotator_digest(config) for config in annotators}
        self._stopped = dict.fromkeys(self._folders, "")
        self._scorers = {config.annotator: self._open(config, answers) for config in annotators}
        self._done = {name: Fingerprints(folder) for name, folder in self._folders.items()}
        self._failures = dict.fromkeys(self._scorers, 0)

    def __call__(self, batches: dict[str, npt.NDArray[np.int64]]) -> Iterator[dict[str, list[Any]]]:
        for number in batches["item"].tolist():
            items, texts = self._read(number)
            counts: dict[str, list[Any]] = {name: [] for name in COUNTS}
            for name in self._scorers:
                scored, reused = self._judge(name, items, texts)
                failed = len(items) * len(self._theories) - scored - reused
                cost = float(getattr(self._scorers[name], "cost_usd", 0.0))
                row = (name, scored, reused, failed, cost, self._stopped[name])
                for column, value in zip(COUNTS, row, strict=True):
                    counts[column].append(value)
            yield counts

    def _read(self, batch: int) -> tuple[list[str], list[str]]:
        """Item ids and texts of a batch: from the one or more row groups that it lies in."""
        first, last = batch * self._batch_size, (batch + 1) * self._batch_size
        ends = self._ends
        groups = range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, min(last, ends[-1]))) + 1)
        start = int(ends[groups[0] - 1]) if groups[0] else 0
        if self._read_last[0] != groups:  # a row group holds many batches, and they come one after another
            self._read_last = groups, self._dilemmas.read_row_groups(list(groups), columns=["item_id", "text"])
        rows = self._read_last[1].slice(first - start, self._batch_size)
        return rows.column("item_id").to_pylist(), rows.column("text").to_pylist()

    def _judge(self, name: str, items: list[str], texts: list[str]) -> tuple[int, int]:
        """Judge what is not on disk yet; returns how many cells were judged and how many were there."""
        prints = np.array(
            [
                [fingerprint(self._digests[name], item, text, theory) for theory in self._theories]
                for item, text in zip(items, texts, strict=True)
            ]
        )
        pending = ~self._done[name].hold(prints)
        reused = int(pending.size - pending.sum())
        if not pending.any():
            return 0, reused
        part = self._folders[name] / f"{hashlib.sha256(''.join(prints[pending]).encode()).hexdigest()[:24]}.parquet"
        if part.exists():
            return 0, int(pending.size)
        rows, columns = np.flatnonzero(pending.any(axis=1)), np.flatnonzero(pending.any(axis=0))
        scores = self._score(name, [texts[row] for row in rows], [self._theories[column] for column in columns])
        if scores is None:
            return 0, reused
        cells = pending[np.ix_(rows, columns)] & (scores.status != FAILED)
        if cells.any():
            row, column = np.nonzero(cells)
            write_table(
                pa.table(
                    {
                        "item_id": [items[rows[r]] for r in row],
                        "theory": [self._theories[columns[c]].name for c in column],
                        "annotator": [name] * len(row),
                        "score": pa.array(scores.score[cells], from_pandas=True),
                        "status": list(scores.status[cells]),
                        "answer_mass": pa.array(scores.answer_mass[cells], from_pandas=True),
                        "fingerprint": [prints[rows[r], columns[c]] for r, c in zip(row, column, strict=True)],
                    }
                ),
                part,
                ANNOTATIONS,
            )
        return int(cells.sum()), reused

    def _score(self, name: str, texts: list[str], theories: list[Theory]) -> Scores | None:
        """The scorer's answer, or None: one annotator that breaks must not stop the others."""
        if (scorer := self._scorers[name]) is None:
            return None
        try:
            scores = scorer.score(texts, theories)
        except Exception as error:
            self._failures[name] += 1
            log.error("annotator %s failed on a batch of %d:\n%s", name, len(texts), traceback.format_exc())
            if self._failures[name] == _GIVE_UP_AFTER:
                self._scorers[name] = None
                self._stopped[name] = f"{_GIVE_UP_AFTER} batches in a row failed, the last with {first_line(error)}"
            return None
        self._failures[name] = 0
        self._stopped[name] = scores.stopped or ""
        return scores

    def _open(self, config: AnnotatorConfig, answers: Path) -> Scorer | None:
        try:
            return open_scorer(config, answers)
        except Exception as error:
            log.error("annotator %s cannot start:\n%s", config.annotator, traceback.format_exc())
            self._stopped[config.annotator] = f"it cannot start: {first_line(error)}"
            return None


def part_folder(parts: Path, config: AnnotatorConfig) -> Path:
    """Where an annotator's parts lie: a changed model, prompt or parameter is another folder."""
    return parts / f"{config.annotator}-{annotator_digest(config)[:12]}"


def fingerprint(digest: str, item_id: str, text: str, theory: Theory) -> str:
    """Hexadecimal fingerprint of one judgement: annotator (model, prompt, parameters), item, text and theory."""
    return hashlib.blake2b("\0".join((digest, item_id, text, theory.name)).encode(), digest_size=16).hexdigest()


def row_group_ends(file: pq.ParquetFile) -> npt.NDArray[np.int64]:
    """The number of rows up to the end of each row group."""
    return np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])


class Fingerprints:
    """The fingerprints in a folder of parts: their first 64 bits, sorted, eight bytes a row."""

    def __init__(self, folder: Path) -> None:
        found = [
            _short(pq.read_table(part, columns=["fingerprint"]).column(0).to_numpy())
            for part in folder.glob("*.parquet")
        ]
        self._sorted = np.concatenate(found) if found else np.empty(0, dtype=np.uint64)
        self._sorted.sort()

    def hold(self, prints: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether each of `prints`, an array of any shape, is among them."""
        short = _short(prints)
        if not len(self._sorted):
            return np.zeros(short.shape, dtype=bool)
        return self._sorted.take(np.searchsorted(self._sorted, short), mode="clip") == short


def _short(prints: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    return np.array([int(value[:16], 16) for value in prints.ravel()], dtype=np.uint64).reshape(prints.shape)
