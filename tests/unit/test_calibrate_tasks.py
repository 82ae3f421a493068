"""Items with votes: Scruples' files, a table of one's own, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consilience.calibration.tasks import BINARY, read_voted
from consilience.errors import UserError

Row = dict[str, Any]


def save(path: Path, *rows: Row | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pair(item: str, gold: Any, second: Any = None, actions: tuple[str, str] = ("lying", "stealing")) -> Row:
    described = [{"id": text, "description": text} for text in actions]
    return {"id": item, "actions": described, "gold_annotations": gold, "human_perf_annotations": second}


def post(item: str, *counts: int) -> Row:
    options = ("AUTHOR", "OTHER", "EVERYBODY", "NOBODY", "INFO")
    return {"id": item, "title": "T", "text": "I did it.", "label_scores": dict(zip(options, counts, strict=True))}


def test_pairs(tmp_path: Path) -> None:
    rows = [pair("a", [3, 2], [1, 4]), pair("b", "[0, 5]", "[2, 3]"), pair("none", [0, 0], [5, 0])]
    items = read_voted(save(tmp_path / "x.jsonl", *rows), "dilemmas")
    assert items.ids == ("a", "b")
    assert items.unvoted == 1
    assert items.texts[0] == ("lying", "stealing")
    assert items.votes.tolist() == [[3, 2], [0, 5]]
    assert items.second is not None
    assert items.second.tolist() == [[1, 4], [2, 3]]


def test_second_votes_are_on_all_items_or_none(tmp_path: Path) -> None:
    assert read_voted(save(tmp_path / "x.jsonl", pair("a", [3, 2])), "dilemmas").second is None
    with pytest.raises(UserError, match="human_perf_annotations' in 1 of 2 rows"):
        read_voted(save(tmp_path / "y.jsonl", pair("a", [3, 2], [1, 4]), pair("b", [3, 2])), "dilemmas")


def test_anecdotes_of_five_options_and_of_two(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jsonl", post("a", 1, 2, 3, 4, 5), post("only info", 0, 0, 0, 0, 7))
    five = read_voted(path, "anecdotes")
    assert five.votes.tolist() == [[1, 2, 3, 4, 5], [0, 0, 0, 0, 7]]
    two = read_voted(path, "anecdotes_binary")
    assert two.options == BINARY
    assert two.votes.tolist() == [[6, 4]]
    assert two.unvoted == 1
    assert two.texts == (("T\n\nI did it.",),)


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    rows = [
        {"item_id": 7, "text": "x", "votes": {"acceptable": 1, "unacceptable": 0}},
        {"text": "y", "votes": '{"unacceptable": 2, "acceptable": 3}'},
        {"text": "z", "votes": [4, 0]},
    ]
    items = read_voted(save(tmp_path / "x.jsonl", *rows), "texts")
    assert items.ids == ("7", "2", "3")
    assert items.options == BINARY
    assert items.votes.tolist() == [[1, 0], [3, 2], [4, 0]]
    assert items.counted
    many = [
        {"text": "x", "votes": {"yes": 1, "no": 0, "unsure": 2}},
        {"text": "y", "votes": {"no": 1, "unsure": 0, "yes": 5}},
    ]
    found = read_voted(save(tmp_path / "y.jsonl", *many), "texts")
    assert found.options == ("yes", "no", "unsure")
    assert found.votes.tolist() == [[1, 0, 2], [5, 1, 0]]


def test_shares_alone(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(
        "study,scenario,human_response\na,He lied.,0.25\na,She helped.,1\n", encoding="utf-8"
    )
    items = read_voted(tmp_path / "x.csv", "texts")
    assert not items.counted
    np.testing.assert_allclose(items.votes, [[0.25, 0.75], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x", "votes": {"a": 1}}], "row 1: column 'votes': expected counts of two options or more"),
        ([{"text": "x", "votes": "3 to 2"}], "row 1: column 'votes': expected JSON"),
        ([{"text": "x", "votes": {"a": 1, "b": -1}}], "row 1: column 'votes': expected a count for b, found -1"),
        ([{"text": "x", "votes": {"a": 1, "b": 0.5}}], "expected a count for b, found 0.5"),
        (
            [{"text": "x", "votes": {"a": 1, "b": 1}}, {"text": "y", "votes": {"a": 1, "c": 1}}],
            "row 2: .*expected a, b",
        ),
        ([{"text": "x", "votes": {"a": 1, "b": 1}}, {"text": " ", "votes": {"a": 1, "b": 1}}], "row 2: column 'text'"),
        ([{"text": "x", "votes": [1, 1]}, "{"], "row 2: "),
        ([{"text": "x", "share": 1.5}], "row 1: expected 'votes', or 'share' from 0 to 1"),
        ([{"text": "x", "votes": [1, 1]}, {"text": "y", "share": 0.5}], "row 2: "),
        ([{"item_id": "a", "text": "x", "votes": [1, 1]}] * 2, "row 2: column 'item_id': 'a' is an earlier row's id"),
        ([{"text": "x", "votes": [0, 0]}], "nobody voted on any item"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[Row | str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_voted(save(tmp_path / "x.jsonl", *rows), "texts")
