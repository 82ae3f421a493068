"""Scruples' own files, and the share of people behind a set of votes."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilience.datasets.scruples import ANECDOTE_OPTIONS, read_anecdotes, read_dilemmas
from consilience.datasets.votes import human_share
from consilience.errors import UserError
from consilience.table_schema import TableSchema, check_key, conform
from consilience.tables import DILEMMAS, GOLD, PAIRS, VOTES

Row = dict[str, Any]


def anecdote(item: str, counts: list[int], **changes: Any) -> Row:
    row = {
        "id": item,
        "post_id": "abc",
        "action": {"description": "keeping the tip", "pronormative_score": 1, "contranormative_score": 2},
        "title": "AITA for keeping the tip?",
        "text": "A guest left a large tip for all of us. I was alone that evening, so I kept it.",
        "post_type": "HISTORICAL",
        "label_scores": dict(zip(ANECDOTE_OPTIONS, counts, strict=True)),
        "label": "AUTHOR",
        "binarized_label_scores": {"RIGHT": counts[1] + counts[3], "WRONG": counts[0] + counts[2]},
        "binarized_label": "WRONG",
    }
    return {**row, **changes}


def dilemma(item: str, gold: Any, second: Any = None, **changes: Any) -> Row:
    row = {
        "id": item,
        "actions": [{"id": "x", "description": "reading her diary"}, {"id": "y", "description": "skipping the queue"}],
        "gold_annotations": gold,
        "gold_label": 0,
        "human_perf_annotations": second,
        "human_perf_label": None,
        "controversial": False,
    }
    return {**row, **changes}


def save(path: Path, *rows: Row) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def checked(table: pa.Table, schema: TableSchema) -> list[Row]:
    assert conform(table, schema, "here") == table
    check_key(table, schema, "here")
    rows: list[Row] = table.to_pylist()
    return rows


def test_anecdotes_become_dilemmas_and_votes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jsonl", anecdote("one", [3, 1, 0, 0, 2]), anecdote("two", [0, 4, 1, 5, 0]))
    dilemmas, votes = read_anecdotes(path)
    assert checked(dilemmas, DILEMMAS)[0] == {
        "item_id": "one",
        "text": "AITA for keeping the tip?\n\n"
        "A guest left a large tip for all of us. I was alone that evening, so I kept it.",
        "source": "scruples",
    }
    rows = checked(votes, VOTES)
    assert [(row["option"], row["count"]) for row in rows if row["item_id"] == "one"] == [
        ("AUTHOR", 3),
        ("OTHER", 1),
        ("EVERYBODY", 0),
        ("NOBODY", 0),
        ("INFO", 2),
    ]
    assert checked(human_share(votes), GOLD) == [
        {"item_id": "one", "theory": "commonsense", "label": 0.25},
        {"item_id": "two", "theory": "commonsense", "label": 0.9},
    ]


@pytest.mark.parametrize("encode", [lambda value: value, json.dumps], ids=["lists", "json"])
def test_pairs_and_both_samples_of_votes(tmp_path: Path, encode: Any) -> None:
    rows = [dilemma("one", encode([4, 1]), encode([5, 0])), dilemma("two", encode([0, 5]), encode([2, 3]))]
    for row in rows:
        row["actions"] = encode(row["actions"])
    scruples = read_dilemmas(save(tmp_path / "d.jsonl", *rows))
    assert checked(scruples.pairs, PAIRS)[0] == {
        "item_id": "one",
        "action_0": "reading her diary",
        "action_1": "skipping the queue",
        "source": "scruples",
    }
    assert [tuple(row.values()) for row in checked(scruples.votes, VOTES)] == [
        ("one", "action_0", 4),
        ("one", "action_1", 1),
        ("two", "action_0", 0),
        ("two", "action_1", 5),
    ]
    assert [row["count"] for row in checked(scruples.second_votes, VOTES)] == [5, 0, 2, 3]


def test_train_has_one_sample_and_copies_come_as_tables(tmp_path: Path) -> None:
    rows = [dilemma("one", [4, 1]), dilemma("two", [3, 2])]
    assert read_dilemmas(save(tmp_path / "d.jsonl", *rows)).second_votes is None
    for row in rows:
        del row["human_perf_annotations"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    scruples = read_dilemmas(tmp_path / "d.parquet")
    assert scruples.second_votes is None
    assert scruples.votes.column("count").to_pylist() == [4, 1, 3, 2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (dilemma("b", [4, 1, 0]), "column 'gold_annotations': expected a list of two, found [4, 1, 0]"),
        (dilemma("b", "4;1"), "column 'gold_annotations': expected JSON, found '4;1'"),
        (dilemma("b", None), "column 'gold_annotations': expected a list of two, found None"),
        (dilemma("b", [4, -1]), "column 'gold_annotations': expected a count for action_1, found -1"),
        (dilemma("b", [True, 1]), "column 'gold_annotations': expected a count for action_0, found True"),
        (dilemma("b", [4, 1], [1.5, 1]), "column 'human_perf_annotations': expected a count for action_0, found 1.5"),
        (dilemma("b", [4, 1], actions=["x", "y"]), "column 'actions': expected objects with a description, found"),
        (dilemma("b", [4, 1], actions=[{"id": "x"}, {"id": "y"}]), "column 'description': expected a value"),
        (dilemma("", [4, 1]), "column 'id': expected a value, found none"),
    ],
)
def test_a_wrong_dilemma_is_named(tmp_path: Path, row: Row, message: str) -> None:
    path = save(tmp_path / "d.jsonl", dilemma("a", [4, 1]), row)
    with pytest.raises(UserError) as caught:
        read_dilemmas(path)
    assert str(caught.value).startswith(f"{path}: row 2: {message}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            anecdote("b", [1, 1, 1, 1, 1], label_scores={"AUTHOR": 1}),
            ": column 'label_scores': expected counts of AUTHOR",
        ),
        (anecdote("b", [1, 1, 1, 1, 1], label_scores=None), ": column 'label_scores': expected counts of AUTHOR"),
        (anecdote("b", [1, -1, 1, 1, 1]), ": column 'label_scores': expected a count for OTHER, found -1"),
        (anecdote("b", [1, 1, 1, 1, 1], text=""), ": column 'text': expected a value"),
        (anecdote("a", [1, 1, 1, 1, 1]), " repeats row 1 (item_id='a')"),
    ],
)
def test_a_wrong_anecdote_is_named(tmp_path: Path, row: Row, message: str) -> None:
    path = save(tmp_path / "a.jsonl", anecdote("a", [1, 0, 0, 0, 0]), row)
    with pytest.raises(UserError) as caught:
        read_anecdotes(path)
    assert str(caught.value).startswith(f"{path}: row 2{message}")


def test_a_file_that_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "b.jsonl").write_text("{\n")
    for name, message in (("a", "no rows; expected a Scruples file"), ("b", "row 1: not JSON"), ("c", "no such file")):
        for read in (read_anecdotes, read_dilemmas):
            with pytest.raises(UserError, match=message):
                read(tmp_path / f"{name}.jsonl")


# The share of people


def votes(*rows: tuple[str, str, int], theory: list[str | None] | None = None) -> pa.Table:
    items, options, counts = zip(*rows, strict=True)
    table = pa.table({"item_id": items, "option": options, "count": counts})
    return table if theory is None else table.append_column("theory", pa.array(theory, pa.string()))


def test_plain_options_theories_and_items_without_a_countable_vote() -> None:
    table = votes(("a", "acceptable", 3), ("a", "unacceptable", 1), ("b", "INFO", 4), ("c", "OTHER", 0))
    assert human_share(table).to_pylist() == [{"item_id": "a", "theory": "commonsense", "label": 0.75}]
    table = votes(("a", "acceptable", 3), ("a", "unacceptable", 1), theory=["justice", None])
    assert human_share(table).to_pylist() == [
        {"item_id": "a", "theory": "justice", "label": 1.0},
        {"item_id": "a", "theory": "commonsense", "label": 0.0},
    ]


def test_pairs_have_no_share_of_acceptability() -> None:
    with pytest.raises(UserError, match=r"mine: row 1, column 'option': expected one of OTHER, .*, found 'action_0'"):
        human_share(votes(("a", "action_0", 3)), "mine")


@given(st.lists(st.lists(st.integers(0, 50), min_size=5, max_size=5), min_size=1, max_size=6))
def test_the_share_is_other_and_nobody_of_all_but_info(counts: list[list[int]]) -> None:
    rows = [
        (str(item), option, count)
        for item, five in enumerate(counts)
        for option, count in zip(ANECDOTE_OPTIONS, five, strict=True)
    ]
    share = human_share(votes(*rows))
    expected = {str(item): (five[1] + five[3]) / sum(five[:4]) for item, five in enumerate(counts) if sum(five[:4]) > 0}
    assert dict(zip(share.column("item_id").to_pylist(), share.column("label").to_pylist(), strict=True)) == expected
