"""Scruples (Lourie et al. 2021): real dilemmas with the votes of many people, in its own JSONL files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from consilience.datasets.fields import shown, text_field
from consilience.errors import UserError
from consilience.readers import RowError, read_rows
from consilience.table_schema import TableSchema, check_key, conform
from consilience.tables import DILEMMAS, PAIRS, VOTES

SOURCE = "scruples"
ANECDOTE_OPTIONS = ("AUTHOR", "OTHER", "EVERYBODY", "NOBODY", "INFO")
DILEMMA_OPTIONS = ("action_0", "action_1")

Record = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ScruplesDilemmas:
    """DILEMMAS: pairs of actions, and how many people find each the LESS ethical one (option action_0 or action_1).

    Attributes:
        pairs: table `pairs`.
        votes: table `votes`, the five gold annotations of each pair.
        second_votes: table `votes`, five other people (human performance); None where the file has none (train).
    """

    pairs: pa.Table
    votes: pa.Table
    second_votes: pa.Table | None


def read_anecdotes(path: Path) -> tuple[pa.Table, pa.Table]:
    """(`dilemmas`, `votes`) of ANECDOTES: text = title, blank line, post; votes on who is in the wrong.

    Options: AUTHOR, OTHER, EVERYBODY, NOBODY, INFO (too little said). `votes.human_share` makes a label of them.

    Raises:
        UserError: a missing field or one of the wrong kind, a repeated id, or a file that cannot be read.
    """
    posts = _read(path, _anecdote)
    dilemmas = _table([dilemma for dilemma, _ in posts], DILEMMAS, path)
    return dilemmas, _table([vote for _, votes in posts for vote in votes], VOTES, path)


def read_dilemmas(path: Path) -> ScruplesDilemmas:
    """Pairs and votes of DILEMMAS. Lists may come as JSON texts, as in copies kept in flat tables.

    Raises:
        UserError: a missing field or one of the wrong kind, a repeated id, or a file that cannot be read.
    """
    rows = _read(path, _dilemma)
    second = [vote for _, _, votes in rows for vote in votes]
    return ScruplesDilemmas(
        pairs=_table([pair for pair, _, _ in rows], PAIRS, path),
        votes=_table([vote for _, votes, _ in rows for vote in votes], VOTES, path),
        second_votes=_table(second, VOTES, path) if second else None,
    )


def _read(path: Path, read: Callable[[Record], T]) -> list[T]:
    """Every row through `read`; here a bad row is the user's mistake."""
    results: list[T] = []
    for number, row in read_rows(path):
        try:
            if isinstance(row, RowError):
                raise row
            results.append(read(row))
        except RowError as error:
            raise UserError(f"{path}: row {number}: {error}") from None
    if not results:
        raise UserError(f"{path}: no rows; expected a Scruples file")
    return results


def _anecdote(row: Record) -> tuple[Record, list[Record]]:
    item, title, post = text_field(row, "id"), text_field(row, "title"), text_field(row, "text")
    scores = _json(row, "label_scores")
    if not isinstance(scores, dict) or set(scores) != set(ANECDOTE_OPTIONS):
        raise RowError(
            f"column 'label_scores': expected counts of {', '.join(ANECDOTE_OPTIONS)}, found {shown(scores)}"
        )
    votes = [_vote(item, "label_scores", option, scores[option]) for option in ANECDOTE_OPTIONS]
    return {"item_id": item, "text": f"{title}\n\n{post}", "source": SOURCE}, votes


def _dilemma(row: Record) -> tuple[Record, list[Record], list[Record]]:
    item = text_field(row, "id")
    actions = _two(row, "actions")
    if not all(isinstance(action, dict) for action in actions):
        raise RowError(f"column 'actions': expected objects with a description, found {shown(actions)}")
    described = [text_field(action, "description") for action in actions]
    second = _counts(item, row, "human_perf_annotations") if row.get("human_perf_annotations") is not None else []
    pair = {"item_id": item, "action_0": described[0], "action_1": described[1], "source": SOURCE}
    return pair, _counts(item, row, "gold_annotations"), second


def _counts(item: str, row: Record, field: str) -> list[Record]:
    return [_vote(item, field, option, count) for option, count in zip(DILEMMA_OPTIONS, _two(row, field), strict=True)]


def _vote(item: str, field: str, option: str, count: object) -> Record:
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise RowError(f"column '{field}': expected a count for {option}, found {shown(count)}")
    return {"item_id": item, "option": option, "count": count}


def _two(row: Record, field: str) -> list[Any]:
    values = _json(row, field)
    if not isinstance(values, list) or len(values) != 2:
        raise RowError(f"column '{field}': expected a list of two, found {shown(values)}")
    return values


def _json(row: Record, field: str) -> Any:
    value = row.get(field)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise RowError(f"column '{field}': expected JSON, found {shown(value)}") from None


def _table(rows: list[Record], schema: TableSchema, path: Path) -> pa.Table:
    table = conform(pa.Table.from_pylist(rows), schema, str(path))
    check_key(table, schema, str(path))
    return table
