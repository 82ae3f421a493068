"""Shapes, pairs, categories and the discriminator: known answers, and what each one catches."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tabular_tables import mixed

from consilience.tabular.fidelity import (
    category_coverage,
    class_share_shift,
    column_shapes,
    discriminator_auc,
    pair_trends,
)
from consilience.tabular.schema import TableSchema
from consilience.tabular.simple_generators import bootstrap, independent


def scores(real: pd.DataFrame, made: pd.DataFrame) -> list[float]:
    return [shape.score for shape in column_shapes(real, made, TableSchema.of(real))]


def test_a_table_is_like_itself() -> None:
    frame = mixed(40)
    schema = TableSchema.of(frame, "label")
    assert scores(frame, frame) == [1.0] * 7
    assert pair_trends(frame, frame, schema) == pytest.approx(1.0)
    assert category_coverage(frame, frame, schema) == 1.0
    assert class_share_shift(frame, frame, schema) == 0.0


def test_known_shapes() -> None:
    real = pd.DataFrame({"n": [1.0, 2.0, 3.0, 4.0], "c": list("aabb"), "d": ["2020-01-01", "2020-01-11", None, None]})
    made = pd.DataFrame({"n": [3.0, 4.0, 5.0, None], "c": list("abbc"), "d": ["2020-01-01"] * 4})
    number, text, date = column_shapes(real, made, TableSchema.of(real))
    assert number.score == pytest.approx(0.5)  # at 2: a half of the real, none of the others
    assert (number.missing_real, number.missing_synthetic) == (0.0, 0.25)
    assert sum(number.real) == pytest.approx(1)
    assert sum(number.synthetic) == pytest.approx(2 / 3)
    assert text.score == 0.75
    assert dict(zip(text.labels, text.synthetic, strict=True)) == {"a": 0.25, "b": 0.5, "c": 0.25}
    assert date.score == 0.5
    assert date.labels[0] == "2020-01-01 to 2020-01-02"


def test_columns_without_values() -> None:
    frame, gone = pd.DataFrame({"n": [1.0, 2.0], "c": ["a", None]}), pd.DataFrame({"n": [np.nan] * 2, "c": [None] * 2})
    assert scores(frame, gone) == [0.0, 0.0]
    assert np.isnan(scores(gone, gone)).all()


def test_known_pairs() -> None:
    x = np.arange(10.0)
    real = pd.DataFrame({"x": x, "y": x})
    schema = TableSchema.of(real)
    assert pair_trends(real, real.assign(y=-x), schema) == pytest.approx(0.0)
    assert pair_trends(real, real.assign(y=1.0), schema) == pytest.approx(0.5)
    real = pd.DataFrame({"c": list("aabb"), "k": list("xxyy")})
    assert pair_trends(real, real.assign(k=list("xyxy")), TableSchema.of(real)) == pytest.approx(0.5)
    real = pd.DataFrame({"c": list("aaaaabbbbb"), "x": x})
    assert pair_trends(real, real.assign(x=x[::-1]), TableSchema.of(real)) == pytest.approx(0.0)
    assert np.isnan(pair_trends(real[["c"]], real[["c"]], TableSchema.of(real[["c"]])))


def test_categories_and_classes() -> None:
    real = pd.DataFrame({"c": list("aabb"), "k": list("wxyz"), "y": [0, 0, 0, 1]})
    made = pd.DataFrame({"c": list("aaaa"), "k": list("wxyz"), "y": [0, 0, 1, 1]})
    assert category_coverage(real, made, TableSchema.of(real)) == 0.75
    assert class_share_shift(real, made, TableSchema.of(real, "y")) == 0.25
    assert np.isnan(class_share_shift(real, made, TableSchema.of(real)))
    assert np.isnan(class_share_shift(mixed(50), mixed(50), TableSchema.of(mixed(50), "income")))


def test_independent_columns_are_caught() -> None:
    frame, fresh = mixed(150), mixed(150, seed=1)
    schema = TableSchema.of(frame, "label")
    made = independent(frame, schema, 150, 0)
    assert np.mean(scores(frame, made)) > 0.9
    assert pair_trends(frame, made, schema) < pair_trends(frame, fresh, schema) - 0.05
    assert discriminator_auc(fresh, made, schema, 0) > 0.8
    assert abs(discriminator_auc(frame, fresh, schema, 0) - 0.5) < 0.15


def test_copies_push_the_discriminator_below_chance() -> None:
    frame = mixed(150)
    schema = TableSchema.of(frame)
    assert discriminator_auc(frame, bootstrap(frame, schema, 150, 0), schema, 0) < 0.45
    assert np.isnan(discriminator_auc(frame[:1], frame, schema, 0))


cells = st.one_of(st.none(), st.sampled_from(["a", "b", "=", ""]))
numbers = st.one_of(st.none(), st.integers(-5, 5).map(float))
rows = st.lists(st.tuples(cells, numbers, numbers), min_size=1, max_size=20)


@settings(max_examples=30, deadline=None)
@given(rows, rows)
def test_every_figure_is_a_share(one: list[tuple[object, ...]], other: list[tuple[object, ...]]) -> None:
    real, made = (pd.DataFrame(each, columns=["c", "x", "y"]).astype({"x": float, "y": float}) for each in (one, other))
    schema = TableSchema.of(real)
    found = [*scores(real, made), pair_trends(real, made, schema), category_coverage(real, made, schema)]
    assert all(np.isnan(each) or -1e-9 <= each <= 1 + 1e-9 for each in found)
