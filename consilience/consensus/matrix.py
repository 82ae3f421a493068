"""Scores as a dense matrix: one row per annotator, one column per task, a task being one item under one theory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from consilience.errors import UserError

COLUMNS = ("item_id", "theory", "annotator", "score")


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """M annotators' scores of N tasks, tasks sorted by theory so that each theory is one slice.

    Attributes:
        annotators: M names, one per row of `scores`.
        theories: T names; theory t holds the columns `offsets[t]:offsets[t + 1]`.
        items: (N,) item id of each task.
        offsets: (T + 1,) int64, rising from 0 to N.
        scores: (M, N) float64, C-contiguous, acceptability 0..1; NaN = missing.
    """

    annotators: list[str]
    theories: list[str]
    items: NDArray[Any]
    offsets: NDArray[np.int64]
    scores: NDArray[np.float64]

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, annotators: Sequence[str] | None = None, theories: Sequence[str] | None = None
    ) -> "ScoreMatrix":
        """Build from a long table with columns item_id, theory, annotator, score; a null score is missing.

        Annotators, theories and items are sorted by name, so the order of the rows does not matter. Name
        `annotators` and `theories` to fix their order, as shards of one table and a saved model must: those without
        rows are then kept, with no score or no task.

        Raises:
            UserError: a missing column, no rows, an empty key, an annotator or theory not in the given list, a score
                that is not a number from 0 to 1, or a repeated (item, theory, annotator).
        """
        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing:
            raise UserError(f"annotations: missing column '{missing[0]}'; expected columns {', '.join(COLUMNS)}")
        if frame.empty and theories is None:
            raise UserError(f"annotations: no rows; expected columns {', '.join(COLUMNS)}")
        scores = _scores(frame)
        annotator_code, annotators = _codes(frame, "annotator", annotators)
        theory_code, theories = _codes(frame, "theory", theories)
        item_code, items = _codes(frame, "item_id", None)

        task_code, tasks = pd.factorize(theory_code * np.int64(len(items)) + item_code, sort=True)
        cell = annotator_code * np.int64(len(tasks)) + task_code
        _refuse_duplicates(frame, cell, len(annotators) * len(tasks))
        matrix = np.full(len(annotators) * len(tasks), np.nan)
        matrix[cell] = scores
        return cls(
            annotators=annotators,
            theories=theories,
            items=np.array(items, dtype=object)[tasks % max(len(items), 1)],
            offsets=np.searchsorted(tasks, np.arange(len(theories) + 1) * len(items)),
            scores=matrix.reshape(len(annotators), len(tasks)),
        )

    @classmethod
    def from_arrays(
        cls, scores: ArrayLike, annotators: Sequence[str], items: ArrayLike, theories: Sequence[str]
    ) -> "ScoreMatrix":
        """Build from (M, N) scores with the item and the theory of each of the N tasks, in any order.

        Raises:
            UserError: shapes that do not agree, a repeated annotator, or a score outside 0..1.
        """
        scores = np.asarray(scores, dtype=np.float64)
        items = np.asarray(items, dtype=object)
        if scores.shape != (len(annotators), len(theories)) or items.shape != (len(theories),):
            raise UserError(
                f"score matrix of shape {scores.shape}: expected {len(annotators)} annotators x {len(theories)} tasks"
                f", and {len(theories)} item ids"
            )
        if len(set(annotators)) < len(annotators):
            raise UserError("score matrix: expected every annotator once")
        if not np.all(np.isnan(scores) | ((scores >= 0.0) & (scores <= 1.0))):
            raise UserError("score matrix: expected scores from 0 to 1, or NaN where missing")
        theory_code, names = pd.factorize(np.asarray(theories, dtype=object), sort=True)
        order = np.argsort(theory_code, kind="stable")
        return cls(
            annotators=list(annotators),
            theories=list(names),
            items=items[order],
            offsets=np.searchsorted(theory_code[order], np.arange(len(names) + 1)),
            scores=np.ascontiguousarray(scores[:, order]),
        )

    @property
    def theory_slices(self) -> dict[str, slice]:
        """The columns of each theory."""
        bounds = zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)
        return {theory: slice(*bound) for theory, bound in zip(self.theories, bounds, strict=True)}

    def take(self, tasks: NDArray[np.int64]) -> "ScoreMatrix":
        """The tasks at positions `tasks` (rising), with all annotators and theories kept."""
        return ScoreMatrix(
            annotators=self.annotators,
            theories=self.theories,
            items=self.items[tasks],
            offsets=np.searchsorted(tasks, self.offsets),
            scores=np.ascontiguousarray(self.scores[:, tasks]),
        )

    def align(self, annotators: Sequence[str]) -> "ScoreMatrix":
        """The same tasks with exactly `annotators` as rows; those absent here have no score.

        Raises:
            UserError: an annotator of this matrix is not in `annotators`.
        """
        if self.annotators == list(annotators):
            return self
        rows = [_position(name, annotators, "annotator") for name in self.annotators]
        scores = np.full((len(annotators), self.scores.shape[1]), np.nan)
        scores[rows] = self.scores
        return ScoreMatrix(list(annotators), self.theories, self.items, self.offsets, scores)

    def task_frame(self, **columns: NDArray[Any]) -> pd.DataFrame:
        """One row per task: item_id, theory and the given (N,) columns."""
        theory = np.repeat(np.asarray(self.theories, dtype=object), np.diff(self.offsets))
        return pd.DataFrame({"item_id": self.items, "theory": theory, **columns})


def as_matrix(data: "ScoreMatrix | pd.DataFrame") -> ScoreMatrix:
    """`data` itself, or the matrix of a long table."""
    return data if isinstance(data, ScoreMatrix) else ScoreMatrix.from_frame(data)


def _position(name: str, known: Sequence[str], what: str) -> int:
    if name not in known:
        raise UserError(f"unknown {what} '{name}': expected one of {', '.join(known)}")
    return list(known).index(name)


def _codes(frame: pd.DataFrame, column: str, names: Sequence[str] | None) -> tuple[NDArray[np.int32], list[str]]:
    """Each row's position in `names`, or in the sorted distinct values where no names are given."""
    category = pd.Categorical(frame[column])
    used = np.zeros(len(category.categories) + 1, dtype=np.bool_)
    used[category.codes] = True
    if used[-1]:  # code -1
        row = int(np.argmin(category.codes))
        raise UserError(f"annotations: row {row + 1}, column '{column}': expected a value")
    found = category.categories[used[:-1]]
    if names is None:
        order = found.argsort()
        names, rank = found[order].tolist(), np.argsort(order)
    else:
        rank = np.array([_position(name, names, column) for name in found], dtype=np.int64)
    position = np.zeros(len(category.categories), dtype=np.int32)
    position[used[:-1]] = rank
    return position[category.codes], list(names)


def _scores(frame: pd.DataFrame) -> NDArray[np.float64]:
    try:
        scores = frame["score"].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        bad = pd.to_numeric(frame["score"], errors="coerce").isna() & frame["score"].notna()
        _refuse_score(frame, bad.to_numpy())
        raise
    outside = (scores < 0.0) | (scores > 1.0)
    if outside.any():
        _refuse_score(frame, outside)
    return scores


def _refuse_score(frame: pd.DataFrame, bad: NDArray[np.bool_]) -> None:
    row = int(np.argmax(bad))
    raise UserError(
        f"annotations: row {row + 1} ({_key(frame, row)}): expected a score from 0 to 1, empty where missing, "
        f"found {frame['score'].iloc[row]}"
    )


def _refuse_duplicates(frame: pd.DataFrame, cell: NDArray[np.int64], cells: int) -> None:
    seen = np.zeros(cells, dtype=np.bool_)
    seen[cell] = True
    if np.count_nonzero(seen) < len(cell):
        row = int(np.argmax(pd.Series(cell).duplicated().to_numpy()))
        first = int(np.argmax(cell == cell[row]))
        raise UserError(
            f"annotations: row {row + 1} repeats row {first + 1} ({_key(frame, row)}); "
            "expected one row per item_id x theory x annotator"
        )


def _key(frame: pd.DataFrame, row: int) -> str:
    return ", ".join(f"{name} {frame[name].iloc[row]}" for name in COLUMNS[:3])
