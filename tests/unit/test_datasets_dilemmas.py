"""A user's dilemmas and AITA dumps: good rows become items, bad ones are set aside, and nothing is half-made."""

import gzip
import json
import random
import resource
import tracemalloc
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilience.datasets import aita, dilemmas
from consilience.datasets.dilemmas import DilemmaCounts, prepare_dilemmas
from consilience.errors import UserError
from consilience.table_schema import check_key, conform, read_table
from consilience.tables import DILEMMAS, GOLD, REJECTED

LADDER = "A neighbour keeps my ladder; I took it back from his shed while he was out."
TICKET = "I told the inspector that my friend had lost her ticket. She had never bought one."

Row = dict[str, Any]


def jsonl(path: Path, *rows: Row | str) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def prepare(source: Path) -> tuple[DilemmaCounts, list[Row], list[Row]]:
    """Counts, items and rejected rows, the files being what their schemas say."""
    out, rejected = source.parent / "out" / "dilemmas.parquet", source.parent / "out" / "rejected.parquet"
    counts = prepare_dilemmas(source, out, rejected)
    items = read_table(out, DILEMMAS)
    bad = pq.read_table(rejected)
    assert conform(bad, REJECTED, "rejected") == bad
    assert (items.num_rows, bad.num_rows) == (counts.items, counts.rejected)
    assert sorted(path.name for path in out.parent.iterdir()) == ["dilemmas.parquet", "rejected.parquet"]
    return counts, items.to_pylist(), bad.to_pylist()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "jsonl.gz"])
def test_every_format_becomes_the_same_table(tmp_path: Path, kind: str) -> None:
    rows = [{"item_id": 7, "text": LADDER, "group": "home"}, {"item_id": 8, "text": TICKET, "group": None}]
    path = tmp_path / f"mine.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind.startswith("jsonl"):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    else:
        tab = "\t" if kind == "tsv" else ","
        path.write_text(
            "\n".join([tab.join(["item_id", "text", "group"]), f"7{tab}{LADDER}{tab}home", f"8{tab}{TICKET}{tab}"])
        )
    counts, items, _ = prepare(path)
    assert counts == DilemmaCounts(items=2, rejected=0)
    assert items == [
        {"item_id": "7", "text": LADDER, "source": path.name, "group": "home"},
        {"item_id": "8", "text": TICKET, "source": path.name, "group": None},
    ]


def test_bad_rows_are_set_aside_with_number_and_reason(tmp_path: Path) -> None:
    good = {"item_id": "a", "text": LADDER, "source": "own"}
    path = jsonl(
        tmp_path / "mine.jsonl",
        good,
        '{"item_id": "b", "text": ',
        {"item_id": "c", "text": "  "},
        {"item_id": "d"},
        {"item_id": "", "text": TICKET},
        {"text": TICKET},
        {"item_id": "a", "text": TICKET},
        {"item_id": "e", "text": 5},
        {"item_id": ["f"], "text": TICKET},
        '{"item_id": NaN, "text": "x"}',
        '["g"]',
        '{"item_id": "h", "text": "\\ud800"}',
        {"item_id": True, "text": TICKET},
        {"item_id": 1e400, "text": TICKET},
        "",
        {"item_id": 2.0, "text": TICKET},
    )
    counts, items, bad = prepare(path)
    assert counts == DilemmaCounts(items=2, rejected=13)
    assert [(item["item_id"], item["source"]) for item in items] == [("a", "own"), ("2", "mine.jsonl")]
    reasons = {row["row"]: row["reason"] for row in bad}
    assert [row["row"] for row in bad] == list(range(2, 15))
    assert reasons[2].startswith("not JSON")
    assert reasons[3] == reasons[4] == "column 'text': expected a value, found none"
    assert reasons[5] == reasons[6] == "column 'item_id': expected a value, found none"
    assert reasons[7] == "column 'item_id': 'a' is an earlier row's id"
    assert reasons[8] == "column 'text': expected text, found 5"
    assert reasons[9] == "column 'item_id': expected text or a number, found ['f']"
    assert (
        reasons[10] == reasons[14].replace("Infinity", "NaN") == "NaN is not a number here; leave a missing value null"
    )
    assert reasons[13] == "column 'item_id': expected text or a number, found True"


def test_bad_csv_rows_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f'item_id,text\na,"{LADDER}"\nb\nc,"{TICKET}",more\nd,"{TICKET}"\n,x\nd,again\n')
    _, items, bad = prepare(path)
    assert [item["item_id"] for item in items] == ["a", "d"]
    assert [(row["row"], row["reason"]) for row in bad] == [
        (2, "expected 2 fields, found 1"),
        (3, "expected 2 fields, found 3"),
        (5, "column 'item_id': expected a value, found none"),
        (6, "column 'item_id': 'd' is an earlier row's id"),
    ]


NOTHING_USABLE = [
    ("a.jsonl", "", "no rows; expected a dilemmas table with columns item_id, text"),
    ("a.csv", "", "empty file"),
    ("a.csv", "item_id,text\n", "no rows"),
    (
        "a.csv",
        "id,text\n1,x\n",
        "missing column 'item_id'; found columns: id, text; expected item_id and text, or title",
    ),
    ("a.jsonl", '{"item_id": 1, "body": "x"}\n', "missing column 'text'; found columns: body, item_id"),
    ("a.jsonl", '{"title": "x", "body": "y"}\n', "missing column 'item_id'"),
    ("a.jsonl", '{"item_id": 1}\n{"text": "x"}\n', "no usable row; row 1: column 'text': expected a value"),
    ("a.jsonl", "hello\n{\n", "no usable row; row 1: not JSON"),
    ("a.csv", "item_id,text\n1,\n", "no usable row; row 1: column 'text'"),
    ("a.csv", "item_id,text\n1,caf\xe9\n".encode("latin-1"), "row 1, column 'text': not UTF-8 text"),
    ("a.jsonl", '{"item_id": 1, "text": "x"}\n{"item_id": 2, "text": "é"}\n'.encode("latin-1"), "row 2: not UTF-8"),
    ("a.txt", "x", "unknown file type"),
]


@pytest.mark.parametrize(("name", "data", "message"), NOTHING_USABLE, ids=lambda value: str(value)[:20])
def test_a_file_without_use_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, name: str, data: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    out = tmp_path / "out"
    with pytest.raises(UserError) as caught:
        prepare_dilemmas(path, out / "d.parquet", out / "r.parquet")
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)
    assert not out.exists() or not list(out.iterdir())


def test_a_missing_file_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        prepare_dilemmas(tmp_path / "none.csv", tmp_path / "d.parquet", tmp_path / "r.parquet")
    source = jsonl(tmp_path / "a.jsonl", {"item_id": 1, "text": LADDER})
    with pytest.raises(UserError, match=r"d\.parquet: cannot be written"):
        prepare_dilemmas(source, source / "d.parquet", tmp_path / "r.parquet")
    with pytest.raises(UserError, match=r"r\.parquet: cannot be written"):
        prepare_dilemmas(source, tmp_path / "d.parquet", source / "r.parquet")
    assert list(tmp_path.iterdir()) == [source]


def test_an_error_late_in_the_file_leaves_the_old_tables(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", *({"item_id": n, "text": LADDER} for n in range(5000)))
    prepare(source)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with source.open("ab") as file:
        file.write(b'{"item_id": "x", "text": "\xe9"}\n')
    with pytest.raises(UserError, match="row 5001: not UTF-8"):
        prepare(source)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    texts = np.random.default_rng(0).integers(0, 10**9, (5000, 8))
    source = jsonl(tmp_path / "a.jsonl", *({"item_id": n, "text": str(text)} for n, text in enumerate(texts)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError) as caught:
            prepare_dilemmas(source, tmp_path / "d.parquet", tmp_path / "r.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


def test_ids_are_told_apart_across_chunks_and_rows_keep_their_order(tmp_path: Path) -> None:
    order = list(range(9000))
    random.Random(1).shuffle(order)
    source = jsonl(tmp_path / "a.jsonl", *({"item_id": n, "text": LADDER} for n in [*order, *order[:300]]))
    _, items, bad = prepare(source)
    assert [item["item_id"] for item in items] == [str(n) for n in order]
    assert [row["row"] for row in bad] == list(range(9001, 9301))
    rows = pq.ParquetFile(tmp_path / "out" / "dilemmas.parquet").metadata
    assert max(rows.row_group(group).num_rows for group in range(rows.num_row_groups)) <= 4096


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from([str(n) for n in range(30)]), max_size=12), max_size=8))
def test_repeated_ids_agree_with_a_set(calls: list[list[str]]) -> None:
    noted, known, row, expected = dilemmas._Ids([BytesIO() for _ in range(3)]), set[str](), 0, []
    for ids in calls:
        noted.add(range(row, row + len(ids)), ids)
        for item in ids:
            expected += [row] if item in known else []
            known.add(item)
            row += 1
    assert noted.repeats().tolist() == expected


def test_memory_is_that_of_a_chunk_and_a_part_of_the_ids(tmp_path: Path) -> None:
    with ExitStack() as files:
        noted = dilemmas._Ids([files.enter_context(TemporaryFile(dir=tmp_path)) for _ in range(64)])
        noted.add([0], ["first"])
        tracemalloc.start()
        for start in range(1, 400_000, 4096):
            noted.add(range(start, start + 4096), [str(n) for n in range(start, start + 4096)])
        assert noted.repeats().tolist() == []
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * 400_000


# AITA dumps

POSTS: list[Row] = [
    {"id": "p1", "title": "AITA for the ladder?", "body": LADDER, "verdict": "not the asshole", "is_asshole": 0},
    {"id": "p2", "title": "AITA for the ticket?", "body": TICKET, "verdict": "asshole", "is_asshole": 1},
    {"id": "p3", "title": "AITA, gone", "body": "[removed]", "verdict": "asshole", "is_asshole": 1},
    {"id": "p4", "title": "AITA, gone too", "body": " [deleted] ", "verdict": "asshole", "is_asshole": 1},
    {"id": "p1", "title": "AITA again", "body": TICKET, "verdict": "asshole", "is_asshole": 1},
    {"id": "p6", "title": "AITA, all of us?", "body": TICKET, "verdict": "everyone sucks", "is_asshole": 1},
    {"id": "p7", "title": "AITA or nobody?", "body": LADDER, "verdict": "no assholes here", "is_asshole": 0},
    {"id": "p8", "title": None, "body": LADDER, "verdict": "asshole", "is_asshole": 1},
]
DIRECTION = {"p1": 1.0, "p2": 0.0, "p6": 0.0, "p7": 1.0}


def labels(path: Path) -> dict[str, float]:
    gold = aita.read_gold(path)
    check_key(gold, GOLD, "gold")
    assert set(gold.column("theory").to_pylist()) == {"commonsense"}
    return dict(zip(gold.column("item_id").to_pylist(), gold.column("label").to_pylist(), strict=True))


@pytest.mark.parametrize("drop", ["", "verdict", "is_asshole"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_aita_dump_is_recognised_and_its_verdicts_turned_to_acceptability(
    tmp_path: Path, drop: str, kind: str
) -> None:
    posts = [{name: value for name, value in post.items() if name != drop} for post in POSTS]
    path = tmp_path / f"dump.{kind}"
    if kind == "jsonl":
        jsonl(path, *posts)
    else:
        pq.write_table(pa.Table.from_pylist(posts), path)
    _, items, bad = prepare(path)
    assert items[0] == {"item_id": "p1", "text": f"AITA for the ladder?\n\n{LADDER}", "source": "aita", "group": None}
    assert labels(path) == DIRECTION
    assert [item["item_id"] for item in items] == list(DIRECTION)
    assert [(row["row"], row["reason"].split(",")[0]) for row in bad] == [
        (3, "column 'body': the post's text is gone"),
        (4, "column 'body': the post's text is gone"),
        (5, "column 'item_id': 'p1' is an earlier row's id"),
        (8, "column 'title': expected a value"),
    ]


def test_a_dump_in_csv_without_ids(tmp_path: Path) -> None:
    path = tmp_path / "dump.csv"
    path.write_text(
        "timestamp,title,body,edited,verdict,score,num_comments,is_asshole\n"
        f'1,AITA?,"{LADDER}\n\n""Mine"", I said.",False,asshole,3,4,1\n'
        "2,AITA??,short,False\n"
        f'3,WIBTA?,"{TICKET}",False,not the asshole,3,4,\n'
        f'4,WIBTA??,"{TICKET}",False,,3,4,\n'
    )
    _, items, bad = prepare(path)
    assert [item["item_id"] for item in items] == ["aita-1", "aita-3", "aita-4"]
    assert items[0]["text"] == f'AITA?\n\n{LADDER}\n\n"Mine", I said.'
    assert bad == [{"row": 2, "reason": "expected 8 fields, found 4"}]
    assert labels(path) == {"aita-1": 0.0, "aita-3": 1.0}


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "1.0", "True"])
def test_is_asshole_in_any_spelling(tmp_path: Path, value: object) -> None:
    assert labels(jsonl(tmp_path / "a.jsonl", {"title": "T", "body": "B", "is_asshole": value})) == {"aita-1": 0.0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"title": "T", "body": "B", "is_asshole": 0.5},
            "row 1, column 'is_asshole': expected one of 0, false, 1, true",
        ),
        ({"title": "T", "body": "B", "verdict": "yes"}, "row 1, column 'verdict': expected one of asshole, everyone"),
        ({"title": "T", "body": "B", "verdict": None}, "no post with a verdict"),
        ({"item_id": "T", "text": "B"}, "not a dump of AITA posts; expected columns title, body, and verdict or"),
    ],
)
def test_gold_that_cannot_be_read(tmp_path: Path, row: Row, message: str) -> None:
    with pytest.raises(UserError, match=message):
        aita.read_gold(jsonl(tmp_path / "a.jsonl", row))
