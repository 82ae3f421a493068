"""What people voted on: items of one or two texts, the options, and how many chose each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from consilience.datasets.fields import name_field, shown, text_field
from consilience.datasets.scruples import ANECDOTE_OPTIONS, DILEMMA_OPTIONS, read_anecdotes, read_dilemmas
from consilience.datasets.votes import ACCEPTABLE, UNACCEPTABLE
from consilience.errors import UserError
from consilience.readers import RowError, read_rows

TaskName = Literal["dilemmas", "anecdotes", "anecdotes_binary", "texts"]
BINARY = ("acceptable", "unacceptable")
"""Options of every task that asks whether conduct is acceptable, in the order of Scruples' RIGHT and WRONG: where votes
tie, the majority is the first."""


@dataclass(frozen=True, eq=False)
class VotedItems:
    """Items with people's votes.

    Attributes:
        task: which question people were asked.
        options: k names.
        ids: n.
        texts: n tuples of one text, or of two actions.
        votes: (n, k) float64, each row with a vote at least; shares that sum to 1 where `counted` is False.
        second: (n, k) votes of other people on the same items, or None.
        counted: whether `votes` are counts; where only shares are known nothing depends on how many voted.
        unvoted: items left out because nobody voted.
    """

    task: TaskName
    options: tuple[str, ...]
    ids: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    votes: NDArray[np.float64]
    second: NDArray[np.float64] | None = None
    counted: bool = True
    unvoted: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> "VotedItems":
        """The items at `rows`."""
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            texts=tuple(self.texts[row] for row in rows),
            votes=self.votes[rows],
            second=None if self.second is None else self.second[rows],
        )


def read_voted(path: Path, task: TaskName) -> VotedItems:
    """Items of a file.

    dilemmas: Scruples' pairs; votes on which of two actions is less ethical. anecdotes: Scruples' posts; votes on who
    is in the wrong, five options; anecdotes_binary: the same as acceptable (OTHER, NOBODY) and unacceptable (AUTHOR,
    EVERYBODY), INFO left out. texts: a table of one's own with `text`, perhaps `item_id`, and either `votes`, an object
    from option to count (or its JSON), the same options in every row; or a list of two counts, acceptable first; or
    `share`, the share of people who find the conduct acceptable, where the number of voters is not known. The names of
    MoralExceptQA, `scenario` and `human_response`, do as well.

    Raises:
        UserError: a missing field or one of the wrong kind, a repeated id, no votes at all, or a file that cannot be
            read; file and row are in the message.
    """
    if task == "dilemmas":
        found = read_dilemmas(path)
        pairs = found.pairs.to_pylist()
        items = VotedItems(
            task,
            DILEMMA_OPTIONS,
            tuple(row["item_id"] for row in pairs),
            tuple((row["action_0"], row["action_1"]) for row in pairs),
            _matrix(found.votes, DILEMMA_OPTIONS),
            None if found.second_votes is None else _matrix(found.second_votes, DILEMMA_OPTIONS),
        )
        if items.second is not None and len(items.second) != len(pairs):
            raise UserError(
                f"{path}: column 'human_perf_annotations' in {len(items.second)} of {len(pairs)} rows; expected it in "
                "all rows or in none"
            )
    elif task == "texts":
        items = _read_own(path)
    else:
        dilemmas, votes = read_anecdotes(path)
        counts = _matrix(votes, ANECDOTE_OPTIONS)
        items = VotedItems(
            task,
            ANECDOTE_OPTIONS,
            tuple(dilemmas.column("item_id").to_pylist()),
            tuple((text,) for text in dilemmas.column("text").to_pylist()),
            counts,
        )
        if task == "anecdotes_binary":
            items = replace(items, options=BINARY, votes=binarised(counts))
    return _voted_only(items, path)


def binarised(anecdotes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) votes acceptable and unacceptable of (n, 5) votes on anecdotes."""
    return np.stack(
        [
            anecdotes[:, [ANECDOTE_OPTIONS.index(option) for option in ANECDOTE_OPTIONS if option in side]].sum(axis=1)
            for side in (ACCEPTABLE, UNACCEPTABLE)
        ],
        axis=1,
    )


def _matrix(votes: pa.Table, options: Sequence[str]) -> NDArray[np.float64]:
    """(n, k) of a loader's votes, which come item by item, option by option."""
    counts: NDArray[np.float64] = votes.column("count").to_numpy().astype(np.float64).reshape(-1, len(options))
    return counts


def _voted_only(items: VotedItems, path: Path) -> VotedItems:
    voted = np.flatnonzero(items.votes.sum(axis=1) > 0)
    if not len(voted):
        raise UserError(f"{path}: nobody voted on any item; expected votes")
    return replace(items.take(voted), unvoted=len(items) - len(voted))


def _read_own(path: Path) -> VotedItems:
    ids: list[str] = []
    texts: list[tuple[str, ...]] = []
    votes: list[list[float]] = []
    options: tuple[str, ...] = ()
    counted: bool | None = None
    seen: set[str] = set()
    for number, row in read_rows(path):
        try:
            if isinstance(row, RowError):
                raise row
            item = name_field(row, "item_id") or str(number)
            if item in seen:
                raise RowError(f"column 'item_id': {item!r} is an earlier row's id")
            text = text_field(row, "scenario" if "scenario" in row and "text" not in row else "text")
            names, counts = _own_votes(row)
            if counted is None:
                options, counted = names, "votes" in row
            if set(names) != set(options) or counted != ("votes" in row):
                raise RowError(f"column 'votes': options {', '.join(names)}; expected {', '.join(options)} as before")
        except RowError as error:
            raise UserError(f"{path}: row {number}: {error}") from None
        seen.add(item)
        ids.append(item)
        texts.append((text,))
        votes.append([counts[names.index(option)] for option in options])
    if not ids:
        raise UserError(f"{path}: no rows; expected columns text and votes")
    return VotedItems("texts", options, tuple(ids), tuple(texts), np.array(votes), counted=bool(counted))


def _own_votes(row: dict[str, Any]) -> tuple[tuple[str, ...], list[float]]:
    """Options and counts of a row, or acceptable and unacceptable with people's shares."""
    if "votes" not in row:
        share = _number(row.get("share", row.get("human_response")))
        if share is None or not 0 <= share <= 1:
            raise RowError("expected 'votes', or 'share' from 0 to 1")
        return BINARY, [share, 1.0 - share]
    votes = row["votes"]
    if isinstance(votes, str):
        try:
            votes = json.loads(votes)
        except ValueError:
            raise RowError(f"column 'votes': expected JSON, found {shown(votes)}") from None
    if isinstance(votes, list) and len(votes) == len(BINARY):
        votes = dict(zip(BINARY, votes, strict=True))
    if not isinstance(votes, dict) or len(votes) < 2:
        raise RowError(
            "column 'votes': expected counts of two options or more, or a list of two (acceptable first), "
            f"found {shown(votes)}"
        )
    for option, count in votes.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise RowError(f"column 'votes': expected a count for {option}, found {shown(count)}")
    names = BINARY if set(votes) == set(BINARY) else tuple(votes)
    return names, [float(votes[name]) for name in names]


def _number(value: Any) -> float | None:
    """A number or a text that is one; None for anything else."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
