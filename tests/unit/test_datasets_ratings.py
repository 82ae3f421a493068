"""Score matrices and crowd ratings: any scale and direction to acceptability, blanks missing, mistakes named."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from consilience.datasets.matrix import read_matrix
from consilience.datasets.ratings import read_gold, read_ratings
from consilience.datasets.scale import scale_column, to_acceptability
from consilience.errors import UserError
from consilience.table_schema import check_key, conform
from consilience.tables import ANNOTATIONS, GOLD

MATRIX = """vignette,foundation,people,kind/model-1,kind/model-2
v1,care,4,4,3
v2,care,,1,
v3,fairness,0,0,2.5
"""
RATINGS = """trait,word,worker,rating
care,kind,ann,9
care,cruel,ann,1
care,kind,bob,
fairness,kind,ann,5
"""


def write(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def matrix(path: Path, **changes: Any) -> Any:
    return read_matrix(
        **{
            "path": path,
            "item_column": "vignette",
            "annotator_columns": "after:people",
            "scale": (0, 4),
            "higher_is": "wrong",
            "theory": "commonsense",
            "human_column": "people",
            **changes,
        }
    )


def ratings(path: Path, **changes: Any) -> Any:
    return read_ratings(
        **{
            "path": path,
            "item_columns": ["trait", "word"],
            "annotator_column": "worker",
            "score_column": "rating",
            "scale": (1, 9),
            "higher_is": "acceptable",
            "theory": "virtue",
            **changes,
        }
    )


def test_a_matrix_becomes_annotations_and_gold_turned_to_acceptability(tmp_path: Path) -> None:
    annotations, gold = matrix(write(tmp_path, MATRIX))
    for table, schema in ((annotations, ANNOTATIONS), (gold, GOLD)):
        assert conform(table, schema, "here") == table
        check_key(table, schema, "here")
    assert [tuple(row.values()) for row in annotations.to_pylist()] == [
        ("v1", "commonsense", "kind/model-1", 0.0),
        ("v2", "commonsense", "kind/model-1", 0.75),
        ("v3", "commonsense", "kind/model-1", 1.0),
        ("v1", "commonsense", "kind/model-2", 0.25),
        ("v2", "commonsense", "kind/model-2", None),
        ("v3", "commonsense", "kind/model-2", 0.375),
    ]
    assert [tuple(row.values()) for row in gold.to_pylist()] == [("v1", "commonsense", 0.0), ("v3", "commonsense", 1.0)]


def test_columns_by_name_or_to_the_right_and_no_human(tmp_path: Path) -> None:
    path = write(tmp_path, MATRIX)
    by_name, gold = matrix(path, annotator_columns=["kind/model-2"], human_column=None)
    assert gold is None
    assert set(by_name.column("annotator").to_pylist()) == {"kind/model-2"}
    right, _ = matrix(path, annotator_columns="after:foundation")
    assert right == matrix(path)[0]
    with_people, _ = matrix(path, annotator_columns="after:foundation", human_column=None)
    assert set(with_people.column("annotator").to_pylist()) == {"people", "kind/model-1", "kind/model-2"}


def test_other_formats_of_a_matrix(tmp_path: Path) -> None:
    rows = [{"vignette": 1, "people": 4, "m": 0.5}, {"vignette": 2, "people": None, "m": None}]
    path = write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "a.jsonl")
    annotations, gold = matrix(path, higher_is="acceptable")
    assert annotations.column("score").to_pylist() == [0.125, None]
    assert gold.to_pylist() == [{"item_id": "1", "theory": "commonsense", "label": 1.0}]


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (MATRIX + "v4,care,1,4.5,1\n", {}, "row 4, column 'kind/model-1': expected a number from 0 to 4, found 4.5"),
        (MATRIX + "v4,care,-1,4,1\n", {}, "row 4, column 'people': expected a number from 0 to 4, found -1"),
        (MATRIX + "v4,care,1,high,1\n", {}, "row 4, column 'kind/model-1': expected a number, found 'high'"),
        (MATRIX + "v4,care,1,1,nan\n", {}, "row 4, column 'kind/model-2': expected a finite number"),
        (MATRIX + "v4,care,1,1,inf\n", {}, "row 4, column 'kind/model-2': expected a finite number"),
        (MATRIX + ",care,1,1,1\n", {}, "row 4, column 'vignette': expected a value"),
        (MATRIX + "v1,care,1,1,1\n", {}, "row 4 repeats row 1 (vignette='v1')"),
        (MATRIX + "v4,care,1,1\n", {}, "row 4: expected 5 fields, found 4"),
        (MATRIX, {"item_column": "id"}, "missing column 'id'"),
        (MATRIX, {"human_column": "humans"}, "missing column 'humans'"),
        (MATRIX, {"annotator_columns": ["kind/model-3"]}, "missing column 'kind/model-3'"),
        (MATRIX, {"annotator_columns": "after:us"}, "missing column 'us'; found columns: vignette, foundation, people"),
        (MATRIX, {"annotator_columns": "after:kind/model-2"}, "no annotator columns ('after:kind/model-2')"),
        (MATRIX, {"annotator_columns": []}, "no annotator columns ([])"),
        (MATRIX, {"annotator_columns": ["people"]}, "column 'people' is named twice"),
        ("", {}, "empty file"),
        ("vignette,people,m\n", {}, "no rows"),
    ],
)
def test_a_wrong_matrix_is_named(tmp_path: Path, text: str, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        matrix(path, **changes)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("read", [matrix, ratings])
@pytest.mark.parametrize(
    ("changes", "message"),
    [({"theory": "astrology"}, "unknown theory 'astrology'"), ({"scale": (4, 4)}, r"scale \[4, 4\]: expected the low")],
)
def test_a_wrong_setting_is_named(tmp_path: Path, read: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, MATRIX if read is matrix else RATINGS), **changes)


def test_annotator_columns_as_a_text_say_after(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="annotator columns 'm1': expected a list of column names, or after:COLUMN"):
        matrix(write(tmp_path, MATRIX), annotator_columns="m1")


def test_ratings_become_annotations(tmp_path: Path) -> None:
    table = ratings(write(tmp_path, RATINGS))
    assert conform(table, ANNOTATIONS, "here") == table
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("care/kind", "virtue", "ann", 1.0),
        ("care/cruel", "virtue", "ann", 0.0),
        ("care/kind", "virtue", "bob", None),
        ("fairness/kind", "virtue", "ann", 0.5),
    ]
    wrong = ratings(write(tmp_path, RATINGS), higher_is="wrong")
    assert wrong.column("score").to_pylist() == [0.0, 1.0, None, 0.5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("care,kind,ann,9", "row 5 repeats row 1 (trait='care', word='kind', worker='ann')"),
        ("care,mild,ann,0", "row 5, column 'rating': expected a number from 1 to 9, found 0.0"),
        ("care,mild,ann,nan", "row 5, column 'rating': expected a finite number"),
        ("care,mild,,4", "row 5, column 'worker': expected a value"),
        (",mild,ann,4", "row 5, column 'trait': expected a value"),
    ],
)
def test_a_wrong_rating_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, f"{RATINGS}{line}\n")
    with pytest.raises(UserError) as caught:
        ratings(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_joined_ids_must_differ(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 2 repeats row 1 \(item_id='a/b/c'"):
        ratings(write(tmp_path, "trait,word,worker,rating\na/b,c,ann,1\na,b/c,ann,1\n"))


def test_gold_on_the_same_scale(tmp_path: Path) -> None:
    path = write(tmp_path, "question,truth\n1,100\n2,\n3,-50\n")
    gold = read_gold(path, ["question"], "truth", (-100, 100), "acceptable", "commonsense")
    assert conform(gold, GOLD, "here") == gold
    assert gold.select(["item_id", "label"]).to_pylist() == [
        {"item_id": "1", "label": 1.0},
        {"item_id": "3", "label": 0.25},
    ]


finite = st.floats(-1e6, 1e6)


@given(finite, finite, finite, st.sampled_from(["acceptable", "wrong"]))
def test_every_scale_lands_within_0_and_1(low: float, high: float, share: float, higher_is: Any) -> None:
    assume(low < high)
    value = min(max(low + (high - low) * (share % 1.0), low), high)
    scores = pa.chunked_array([[low, high, value, None]], pa.float64())
    scaled = to_acceptability(scores, (low, high), higher_is).to_pylist()
    assert scaled[:2] == ([0.0, 1.0] if higher_is == "acceptable" else [1.0, 0.0])
    assert 0.0 <= scaled[2] <= 1.0
    assert scaled[3] is None


def test_a_scale_has_two_ends() -> None:
    with pytest.raises(UserError, match=r"scale \[1, 0\]"):
        scale_column("score", (1, 0))
