"""Reading rows: three formats that agree, rows numbered from 1, and one line for everything that can be wrong."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilience import readers
from consilience.errors import UserError
from consilience.readers import RowError, read_batches, read_rows

ROWS = [{"item_id": "a", "text": "She kept the change."}, {"item_id": "b", "text": "He said,\n“so did I”."}]
SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv", ".jsonl.gz", ".csv.gz", ".tsv.gz")


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format of the path's ending."""
    kind = path.name.partition(".")[2].removesuffix(".gz")
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if kind == "jsonl":
        data = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        separator = "\t" if kind == "tsv" else ","
        lines = [list(rows[0]), *([row[name] for name in rows[0]] for row in rows)]
        data = "".join(separator.join(_quoted(value) for value in line) + "\n" for line in lines)
    path.write_bytes(gzip.compress(data.encode()) if path.suffix == ".gz" else data.encode())
    return path


def _quoted(value: object) -> str:
    return "" if value is None else '"' + str(value).replace('"', '""') + '"'


def whole(path: Path, *arguments: Any) -> list[dict[str, Any]]:
    return [row for _, batch in read_batches(path, *arguments) for row in batch.to_pylist()]


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_rows_both_ways(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"rows{suffix}", ROWS)
    assert whole(path) == ROWS
    assert list(read_rows(path)) == list(enumerate(ROWS, 1))
    assert whole(path, ["text", "elsewhere"]) == [{"text": row["text"]} for row in ROWS]


text_values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"a": text_values, "b": text_values}), min_size=1, max_size=8))
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[dict[str, str]]) -> None:
    path = save(tmp_path_factory.mktemp("round") / f"rows{suffix}", rows)
    expected = [{name: None if suffix == ".csv" and v == "null" else v for name, v in row.items()} for row in rows]
    assert whole(path) == expected
    assert list(read_rows(path)) == list(enumerate(expected, 1))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_numbering_goes_on_across_batches(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_ROWS", 2)
    monkeypatch.setattr(readers, "_BLOCK", 12)
    path = save(tmp_path / f"rows{suffix}", [{"n": str(n)} for n in range(1, 6)])
    for first, batch in read_batches(path):
        assert [int(n) for n in batch.column("n").to_pylist()] == list(range(first, first + batch.num_rows))


def test_malformed_rows_keep_their_numbers_across_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_BLOCK", 12)
    path = write(tmp_path / "a.csv", "n,m\n" + "".join(f"{n}\n" if n % 3 == 0 else f"{n},x\n" for n in range(1, 31)))
    rows = list(read_rows(path))
    assert [number for number, _ in rows] == list(range(1, 31))
    for number, row in rows:
        assert isinstance(row, RowError) if number % 3 == 0 else row == {"n": str(number), "m": "x"}


def test_blank_lines_and_a_byte_order_mark_are_no_data(tmp_path: Path) -> None:
    jsonl = write(tmp_path / "a.jsonl", '\ufeff{"n": 1}\n\n{"n": 2}\n  \n')
    csv = write(tmp_path / "a.csv", "\ufeffn,m\n1,x\n\n2,y\n\n")
    assert list(read_rows(jsonl)) == [(1, {"n": 1}), (2, {"n": 2})]
    assert list(read_rows(csv)) == [(1, {"n": "1", "m": "x"}), (2, {"n": "2", "m": "y"})]


def test_a_csv_without_a_header_line_is_given_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1,2\n3,4\n")
    assert whole(path, None, ["x", "y"]) == [{"x": "1", "y": "2"}, {"x": "3", "y": "4"}]
    with pytest.raises(UserError, match=r"a\.csv: row 2: expected 2 fields, found 3"):
        whole(write(path, "1,2\n3,4,5\n"), None, ["x", "y"])


MALFORMED = {
    "csv": ("a,b\n1,2\n3\n\n4,5\n6,7,8\n9,9\n", {2: "expected 2 fields, found 1", 4: "expected 2 fields, found 3"}),
    "jsonl": ('{"a": 1}\n{"a": \n{"a": 3}\n[4]\n{"a": 5}\n', {2: "not JSON", 4: "expected a JSON object, found '[4]'"}),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_row_stops_the_strict_reader_and_not_the_other(tmp_path: Path, kind: str) -> None:
    text, bad = MALFORMED[kind]
    path = write(tmp_path / f"a.{kind}", text)
    with pytest.raises(UserError, match=r"row 2: " + bad[2]):
        whole(path)
    rows = dict(read_rows(path))
    assert list(rows) == [1, 2, 3, 4, 5]
    assert {number for number, row in rows.items() if isinstance(row, RowError)} == set(bad)
    assert all(str(rows[number]).startswith(reason) for number, reason in bad.items())
    assert str(rows[5]["a"]) in "59"  # type: ignore[index]


def test_bad_csv_rows_at_the_end_and_everywhere(tmp_path: Path) -> None:
    assert [number for number, _ in read_rows(write(tmp_path / "a.csv", "a,b\n1,2\n3\n4\n"))] == [1, 2, 3]
    assert all(isinstance(row, RowError) for _, row in read_rows(write(tmp_path / "b.csv", "a,b\n3\n4\n")))


NOT_ROWS = [
    ("missing.csv", None, "no such file"),
    ("a.xlsx", "x", r"unknown file type; expected a name ending in \.parquet, .*\.tsv\.gz"),
    ("a.csv", "", "empty file; expected a header line and rows"),
    ("a.csv", "a,b,a\n1,2,3\n", "two columns are called 'a'"),
    ("a.csv", "a,b\n1,2\n3,\xe9\n".encode("latin-1"), "row 2, column 'b': not UTF-8 text"),
    ("a.csv", "a,b\n1,2\n".encode("utf-16"), "not UTF-8 text"),
    ("a.csv", 'a,b\n1,"' + "2,x\n" * 2**22, "malformed: a row is longer than 4 MiB; is a quotation mark left open"),
    ("a.jsonl", '{"a": "x"}\n{"a": "é"}\n'.encode("latin-1"), "row 2: not UTF-8 text"),
    ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), "row 1: not UTF-8 text"),
    ("a.jsonl", '{"a": 1}\n{"a": NaN}\n', "row 2: NaN is not a number here; leave a missing value null"),
    ("a.jsonl", '{"a": -Infinity}\n', "row 1: -Infinity is not a number here"),
    ("a.jsonl", '{"a": 1, "a": 2}\n', "row 1: one name stands twice in an object"),
    ("a.jsonl", '{"a": "\\ud800"}\n', "row 1: holds half of a surrogate pair"),
    ("a.jsonl", f'{{"a": {"1" * 5000}}}\n', "row 1: not JSON"),
    ("a.jsonl", "[" * 100_000, "row 1: not JSON"),
    ("a.jsonl", '{"a": null}\n{"a": 0.5}\n{"a": 1}\n{"a": "x"}\n', "row 4, column 'a': 'x' is of another type"),
    ("a.jsonl", f'{{"a": 1}}\n{{"a": {2**70}}}\n', "row 2, column 'a': .* too large a number"),
    ("a.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 99)[:-9], "cannot be read"),
    ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99)[:-9], "cannot be read"),
    ("a.jsonl.gz", b"plain", "cannot be read"),
    ("a.parquet", b"", "malformed"),
    ("a.parquet", b"PAR1 and then nothing", "malformed"),
]


@pytest.mark.parametrize(("name", "data", "message"), NOT_ROWS, ids=lambda value: str(value)[:24])
def test_one_line_says_which_file_and_what(tmp_path: Path, name: str, data: str | bytes | None, message: str) -> None:
    path = tmp_path / name if data is None else write(tmp_path / name, data)
    with pytest.raises(UserError, match=message) as caught:
        whole(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_two_parquet_columns_of_one_name(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="two columns are called 'a'"):
        whole(tmp_path / "a.parquet")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(UserError, match="no such file"):
        whole(tmp_path / "a.csv")
