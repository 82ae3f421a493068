"""Score matrices: layout, and every way a long table can be wrong."""

import numpy as np
import pandas as pd
import pytest

from consilience.consensus.matrix import ScoreMatrix
from consilience.errors import UserError


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        [
            ("i2", "virtue", "b", 0.9),
            ("i1", "virtue", "a", 0.1),
            ("i1", "justice", "b", None),
            ("i2", "virtue", "a", 0.3),
            ("i1", "justice", "a", 1.0),
        ],
        columns=["item_id", "theory", "annotator", "score"],
    )


def test_layout(frame: pd.DataFrame) -> None:
    matrix = ScoreMatrix.from_frame(frame)
    assert matrix.annotators == ["a", "b"]
    assert matrix.theory_slices == {"justice": slice(0, 1), "virtue": slice(1, 3)}
    assert matrix.items.tolist() == ["i1", "i1", "i2"]
    np.testing.assert_array_equal(matrix.scores, [[1.0, 0.1, 0.3], [np.nan, np.nan, 0.9]])
    assert matrix.scores.flags.c_contiguous
    assert matrix.task_frame(x=np.arange(3)).to_numpy().tolist() == [
        ["i1", "justice", 0],
        ["i1", "virtue", 1],
        ["i2", "virtue", 2],
    ]


@pytest.mark.parametrize("dtype", ["category", "str", "object"])
def test_row_order_and_column_type_do_not_matter(frame: pd.DataFrame, dtype: str) -> None:
    expected = ScoreMatrix.from_frame(frame)
    keys = dict.fromkeys(["item_id", "theory", "annotator"], dtype)
    for rows in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        matrix = ScoreMatrix.from_frame(frame.iloc[rows].astype(keys))
        assert (matrix.annotators, matrix.theories) == (expected.annotators, expected.theories)
        np.testing.assert_array_equal(matrix.items, expected.items)
        np.testing.assert_array_equal(matrix.scores, expected.scores)


def test_given_names_fix_the_rows(frame: pd.DataFrame) -> None:
    matrix = ScoreMatrix.from_frame(frame, annotators=["c", "b", "a"], theories=["virtue", "commonsense", "justice"])
    assert matrix.offsets.tolist() == [0, 2, 2, 3]
    assert np.isnan(matrix.scores[0]).all()
    np.testing.assert_array_equal(matrix.scores[2], [0.1, 0.3, 1.0])
    empty = ScoreMatrix.from_frame(frame.iloc[:0], annotators=["a"], theories=["virtue"])
    assert empty.scores.shape == (1, 0)


def test_from_arrays_sorts_by_theory(frame: pd.DataFrame) -> None:
    matrix = ScoreMatrix.from_arrays(
        [[0.1, 0.3, 1.0], [np.nan, 0.9, np.nan]], ["a", "b"], ["i1", "i2", "i1"], ["virtue", "virtue", "justice"]
    )
    expected = ScoreMatrix.from_frame(frame)
    np.testing.assert_array_equal(matrix.scores, expected.scores)
    np.testing.assert_array_equal(matrix.items, expected.items)
    np.testing.assert_array_equal(matrix.offsets, expected.offsets)


def test_take_and_align(frame: pd.DataFrame) -> None:
    matrix = ScoreMatrix.from_frame(frame)
    part = matrix.take(np.array([1, 2]))
    assert part.theory_slices == {"justice": slice(0, 0), "virtue": slice(0, 2)}
    wider = matrix.align(["b", "c", "a"])
    np.testing.assert_array_equal(wider.scores[[0, 2]], matrix.scores[[1, 0]])
    assert np.isnan(wider.scores[1]).all()
    with pytest.raises(UserError, match="unknown annotator 'b'"):
        matrix.align(["a"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="score"), "missing column 'score'"),
        (lambda f: f.iloc[:0], "no rows"),
        (
            lambda f: f.assign(score=[0, 0, 1.2, 0, 0]),
            "row 3 .item_id i1, theory justice, annotator b.*from 0 to 1.*found 1.2",
        ),
        (lambda f: f.assign(score=[0, 0, 0, -0.1, 0]), "row 4 .*-0.1"),
        (lambda f: f.assign(score=[0, np.inf, 0, 0, 0]), "row 2 .*inf"),
        (lambda f: f.assign(score=["0", "1", "high", None, "0"]), "row 3 .*found high"),
        (lambda f: f.assign(annotator=["b", None, "b", "a", "a"]), "row 2, column 'annotator': expected a value"),
        (lambda f: pd.concat([f, f.iloc[[1]]]), "row 6 repeats row 2 .item_id i1, theory virtue, annotator a"),
    ],
)
def test_bad_tables_are_refused_by_row(frame: pd.DataFrame, change, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        ScoreMatrix.from_frame(change(frame))
    assert "\n" not in str(error.value)


def test_names_not_in_the_given_lists_are_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="unknown annotator 'b': expected one of a, c"):
        ScoreMatrix.from_frame(frame, annotators=["a", "c"])
    with pytest.raises(UserError, match="unknown theory 'justice'"):
        ScoreMatrix.from_frame(frame, theories=["virtue"])


@pytest.mark.parametrize(
    ("scores", "annotators", "message"),
    [
        ([[0.1, 0.2]], ["a", "b"], "expected 2 annotators x 2 tasks"),
        ([[0.1, 0.2], [0.1, 0.2]], ["a", "a"], "every annotator once"),
        ([[0.1, 2.0], [0.1, 0.2]], ["a", "b"], "from 0 to 1"),
    ],
)
def test_bad_arrays_are_refused(scores, annotators, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ScoreMatrix.from_arrays(scores, annotators, ["i", "j"], ["virtue", "virtue"])
