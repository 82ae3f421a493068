"""The tables: what is written is read back, and one line names file, row and column of whatever is wrong."""

import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilience import readers, tables
from consilience.errors import UserError
from consilience.files import atomic_path, write_json
from consilience.table_schema import Column, TableSchema, check_key, conform, iterate_parquet, read_table, write_table
from consilience.tables import ANNOTATIONS, DILEMMAS, GOLD, REJECTED, VOTES
from consilience.theories import THEORY_NAMES

GOOD: dict[str, Any] = {"item_id": "a", "theory": "justice", "annotator": "m", "score": 0.5}
SCHEMAS = [value for value in vars(tables).values() if isinstance(value, TableSchema)]


def annotations(*changes: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{**GOOD, "item_id": str(row), **change} for row, change in enumerate(changes)])


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["item_id,theory,annotator,score", *lines]) + "\n", encoding="utf-8")
    return path


def cells(column: Column) -> st.SearchStrategy[Any]:
    """Values that the column allows."""
    if column.choices is not None:
        values: st.SearchStrategy[Any] = st.sampled_from(column.choices)
    elif column.type == pa.string():
        values = st.text(st.characters(exclude_categories=["Cs", "Z", "C"]), min_size=1, max_size=6)
    elif column.type == pa.bool_():
        values = st.booleans()
    elif column.type == pa.int64():
        values = st.integers(int(column.low or 0), 2**62)
    else:
        values = st.floats(column.low, column.high, allow_nan=False, allow_infinity=False)
    return values | st.none() if column.nullable else values


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    schema = data.draw(st.sampled_from(SCHEMAS))
    columns = [column for column in schema.columns if not column.optional or data.draw(st.booleans())]
    row = st.fixed_dictionaries({column.name: cells(column) for column in columns})
    key = [name for name in schema.key if name in {column.name for column in columns}]
    rows = data.draw(st.lists(row, min_size=1, max_size=5, unique_by=lambda row: tuple((row[name]) for name in key)))
    path = tmp_path_factory.mktemp("round") / "table.parquet"
    table = pa.Table.from_pylist(rows, schema=pa.schema([(column.name, column.type) for column in columns]))
    write_table(table, path, schema)
    assert read_table(path, schema).to_pylist() == rows
    assert [row for batch in iterate_parquet(path, rows=2) for row in batch.to_pylist()] == rows


def test_other_columns_are_dropped_and_order_is_the_schemas(tmp_path: Path) -> None:
    write_table(
        annotations({"mood": "low"}).select(["mood", "score", "annotator", "theory", "item_id"]),
        tmp_path / "t",
        ANNOTATIONS,
    )
    assert pq.read_schema(tmp_path / "t").names == ["item_id", "theory", "annotator", "score"]


def test_missing_is_null_in_every_format(tmp_path: Path) -> None:
    for path in (
        csv(tmp_path / "a.csv", "a,justice,m,", "b,justice,m,null", 'c,justice,m,"  "'),
        jsonl(
            tmp_path / "a.jsonl",
            *({**GOOD, "item_id": item, "score": score} for item, score in zip("abc", (None, "", " "), strict=True)),
        ),
    ):
        assert read_table(path, ANNOTATIONS).column("score").to_pylist() == [None] * 3
    path = jsonl(tmp_path / "v.jsonl", {"item_id": "a", "theory": "", "option": "INFO", "count": 1})
    assert read_table(path, VOTES).column("theory").to_pylist() == [None]


@pytest.mark.parametrize("text_type", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_numbers_as_text_and_ids_as_numbers(text_type: pa.DataType) -> None:
    table = annotations({}, {}).set_column(3, "score", pa.array([" 0.25", ""]).cast(text_type))
    assert conform(table, ANNOTATIONS, "here").column("score").to_pylist() == [0.25, None]
    for numbers in ([7, 8], [7.0, 8.0]):
        ids = conform(table.set_column(0, "item_id", pa.array(numbers)), ANNOTATIONS, "here").column("item_id")
        assert ids.to_pylist() == ["7", "8"]


def test_an_optional_column_may_be_absent_from_some_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_ROWS", 1)
    path = jsonl(tmp_path / "a.jsonl", {**GOOD, "answer_mass": 1}, {**GOOD, "item_id": "b"})
    assert read_table(path, ANNOTATIONS).column("answer_mass").to_pylist() == [1.0, None]
    path = jsonl(tmp_path / "a.jsonl", {**GOOD, "status": "ok"}, {**GOOD, "item_id": "b"})
    with pytest.raises(UserError, match="row 2, column 'status': expected a value"):
        read_table(path, ANNOTATIONS)


THEORIES = ", ".join(THEORY_NAMES)
BAD_VALUES = [
    ("score", 1.5, "expected a number from 0 to 1, found 1.5"),
    ("score", -0.1, "expected a number from 0 to 1, found -0.1"),
    ("score", math.nan, "expected a finite number (leave it empty if missing), found nan"),
    ("score", math.inf, "expected a finite number (leave it empty if missing), found inf"),
    ("score", [0.5], "expected a number, found [0.5]"),
    ("theory", "astrology", f"expected one of {THEORIES}, found 'astrology'"),
    ("theory", None, "expected a value, found None"),
    ("annotator", "", "expected a value, found None"),
    ("item_id", "  ", "expected a value, found None"),
    ("item_id", {"a": 1}, "expected text, found {'a': 1}"),
    ("item_id", b"\xff", "expected text, found b'\\xff'"),
]


@pytest.mark.parametrize(("column", "value", "message"), BAD_VALUES)
def test_a_bad_value_is_named(tmp_path: Path, column: str, value: Any, message: str) -> None:
    values = [None, None, value] if column == "score" else [value] * 3
    row = 3 if column == "score" else 1
    where = tmp_path / "a.parquet"
    table = annotations({}, {}, {})
    table = table.set_column(table.column_names.index(column), column, pa.array(values))
    expected = f"{where}: row {row}, column '{column}': {message}"
    with pytest.raises(UserError) as caught:
        write_table(table, where, ANNOTATIONS)
    assert str(caught.value) == expected
    assert not list(tmp_path.iterdir())
    pq.write_table(table, where)
    with pytest.raises(UserError) as caught:
        read_table(where, ANNOTATIONS)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b,justice,m,high", "row 2, column 'score': expected a number, found 'high'"),
        ("b,justice,m,2", "row 2, column 'score': expected a number from 0 to 1, found 2.0"),
        ("b,justice,m,nan", "row 2, column 'score': expected a finite number"),
        ("b,justice,m,-inf", "row 2, column 'score': expected a finite number"),
        ("b,justice,m,1e999", "row 2, column 'score': expected a finite number"),
        (",justice,m,1", "row 2, column 'item_id': expected a value, found None"),
        ("b,Justice,m,1", "row 2, column 'theory': expected one of justice"),
        ("b,justice,m", "row 2: expected 4 fields, found 3"),
        ("b,justice,m,1,1", "row 2: expected 4 fields, found 5"),
        ("a,justice,m,1", "row 2 repeats row 1 (item_id='a', theory='justice', annotator='m'); expected one row per"),
    ],
)
def test_a_bad_csv_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = csv(tmp_path / "a.csv", "a,justice,m,0.5", line, "c,justice,m,0.5")
    with pytest.raises(UserError) as caught:
        read_table(path, ANNOTATIONS)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_row_numbers_and_duplicates_hold_across_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_ROWS", 2)
    rows = [{**GOOD, "item_id": str(n)} for n in range(5)]
    with pytest.raises(UserError, match="row 5, column 'score'"):
        read_table(jsonl(tmp_path / "a.jsonl", *rows[:4], {**rows[4], "score": 3}), ANNOTATIONS)
    with pytest.raises(UserError, match="row 5 repeats row 2"):
        read_table(jsonl(tmp_path / "a.jsonl", *rows[:4], rows[1]), ANNOTATIONS)


def test_a_missing_column_is_named_with_those_found(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"item_id": "a", "theory": "justice", "score": 1})
    with pytest.raises(UserError) as caught:
        read_table(path, ANNOTATIONS)
    assert str(caught.value) == (
        f"{path}: missing column 'annotator' of table 'annotations'; found columns: item_id, theory, score"
    )


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_no_rows_is_a_mistake(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(annotations({}).slice(0, 0), path)
    else:
        path.write_text("item_id,theory,annotator,score\n" if name == "a.csv" else "")
    with pytest.raises(UserError, match=r"no rows; expected table 'annotations' with columns item_id, theory"):
        read_table(path, ANNOTATIONS)


def test_counts_are_whole_numbers_from_zero(tmp_path: Path) -> None:
    for count, message in ((2.5, "expected a whole number, found 2.5"), (-1, "expected a number of at least 0")):
        with pytest.raises(UserError, match=f"row 1, column 'count': {message}"):
            conform(pa.table({"item_id": ["a"], "option": ["INFO"], "count": [count]}), VOTES, "here")
    assert (
        conform(pa.table({"item_id": ["a"], "option": ["INFO"], "count": [2.0]}), VOTES, "here")
        .column("count")[0]
        .as_py()
        == 2
    )


def test_a_column_that_cannot_be_the_type_even_when_empty() -> None:
    table = annotations({}).set_column(3, "score", pa.array([None], pa.list_(pa.float64())))
    with pytest.raises(UserError, match="here: column 'score': expected a number, found list"):
        conform(table, ANNOTATIONS, "here")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, "justice", "virtue"])), max_size=8))
def test_the_first_repeated_key_is_the_one_named(keys: list[tuple[str, str | None]]) -> None:
    rows = [{"item_id": item, "theory": theory, "option": "INFO", "count": 1} for item, theory in keys]
    table = pa.Table.from_pylist(rows, schema=VOTES.arrow)
    repeated = next((row for row, key in enumerate(keys) if key in keys[:row]), None)
    if repeated is None:
        check_key(table, VOTES, "here")
    else:
        with pytest.raises(UserError, match=rf"row {repeated + 1} repeats row {keys.index(keys[repeated]) + 1} \("):
            check_key(table, VOTES, "here")


def test_an_empty_table_can_be_written(tmp_path: Path) -> None:
    write_table(REJECTED.arrow.empty_table(), tmp_path / "r.parquet", REJECTED)
    assert pq.read_table(tmp_path / "r.parquet").schema == REJECTED.arrow


# A write that fails


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """No file can grow beyond `limit` bytes: what a full disk looks like to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def dilemmas(rows: int) -> pa.Table:
    text = [f"{row} " + "".join(chr(33 + (row * 7 + n * n) % 90) for n in range(200)) for row in range(rows)]
    return pa.table({"item_id": [str(row) for row in range(rows)], "text": text})


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    write_table(dilemmas(2), path, DILEMMAS)
    before = path.read_bytes()
    with small_disk(4096), pytest.raises(UserError) as caught:
        write_table(dilemmas(5000), path, DILEMMAS)
    assert str(caught.value).startswith(f"{path}: cannot be written: ")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def broken(table: pa.Table, path: Path, **more: object) -> None:
        Path(path).write_bytes(b"half")
        raise error

    path = tmp_path / "d.parquet"
    write_table(dilemmas(1), path, DILEMMAS)
    before = path.read_bytes()
    monkeypatch.setattr(pq, "write_table", broken)
    with pytest.raises(UserError, match=rf"cannot be written: {error.strerror}$"):
        write_table(dilemmas(2), path, DILEMMAS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    for path in (tmp_path / "plain" / "d.parquet", tmp_path / "plain" / "deeper" / "d.parquet"):
        with pytest.raises(UserError, match=r"d\.parquet: cannot be written: "):
            write_table(dilemmas(1), path, DILEMMAS)
    assert (tmp_path / "plain").read_text() == "x"


def test_a_folder_of_that_name_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "d.parquet").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_table(dilemmas(1), tmp_path / "d.parquet", DILEMMAS)
    assert [path.name for path in tmp_path.iterdir()] == ["d.parquet"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "note"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_and_nan_is_no_json(tmp_path: Path) -> None:
    write_table(pa.table({"item_id": ["a"], "theory": ["virtue"], "label": [1]}), tmp_path / "x" / "g", GOLD)
    assert read_labels(tmp_path / "x" / "g") == [1.0]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "s.json", {"r": math.nan})
    assert not (tmp_path / "s.json").exists()


def read_labels(path: Path) -> list[float]:
    labels: list[float] = pq.read_table(path).column("label").to_pylist()
    return labels
