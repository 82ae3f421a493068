"""Every simple generator keeps types, ranges and missing values; each keeps, or loses, the relations it should."""

import numpy as np
import pandas as pd
import pytest
from tabular_tables import mixed

from consilience.tabular.adversarial_forest import adversarial_forest
from consilience.tabular.schema import TableSchema
from consilience.tabular.simple_generators import GENERATORS, bootstrap, cart, independent, resample, smote

EVERY = pytest.mark.parametrize("name", GENERATORS)


@EVERY
def test_rows_types_ranges_and_missing_values(name: str) -> None:
    frame = mixed(120).assign(day=lambda rows: rows["since"].dt.strftime("%Y-%m-%d"))
    frame = frame.astype({"city": "category"})[["day", *frame.columns[:-1]]]
    schema = TableSchema.of(frame, "label")
    made = GENERATORS[name](frame, schema, 150, 3)
    pd.testing.assert_frame_equal(made, GENERATORS[name](frame, schema, 150, 3))
    assert not made.equals(GENERATORS[name](frame, schema, 150, 4))
    assert len(made) == 150
    pd.testing.assert_series_equal(made.dtypes, frame.dtypes)
    for column in schema.columns:
        real, drawn = frame[column.name], made[column.name]
        assert drawn.isna().any() == real.isna().any()
        if column.kind in ("category", "boolean", "date"):
            assert set(drawn.dropna()) <= set(real.dropna())
        else:
            assert drawn.min() >= real.min()
            assert drawn.max() <= real.max()
    np.testing.assert_allclose(made["income"], made["income"].round(1))
    assert abs(made["label"].mean() - frame["label"].mean()) < 0.2


@EVERY
@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"one": list("abc") * 5}),
        pd.DataFrame({"one": [1.5]}),
        pd.DataFrame({"n": [7], "c": ["x"]}),
        pd.DataFrame({"n": [7] * 9, "c": ["x"] * 9, "f": [0.5] * 9}),
        pd.DataFrame({"n": [1, 2, 3], "gone": [np.nan] * 3, "lost": [None] * 3}),
        pd.DataFrame({f"c{k}": np.arange(8) % (k % 5 + 2) for k in range(200)}),
    ],
    ids=["single column", "one cell", "one row", "constant", "all missing", "200 columns"],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_odd_tables(name: str, frame: pd.DataFrame) -> None:
    for target in (None, frame.columns[0]):
        made = GENERATORS[name](frame, TableSchema.of(frame, target), 12, 0)
        assert len(made) == 12
        pd.testing.assert_series_equal(made.dtypes, frame.dtypes)
        assert (made.isna().all() == frame.isna().all()).all()


def test_bootstrap_and_resample_start_from_real_rows() -> None:
    frame = pd.DataFrame({f"c{k}": range(100 * k, 100 * k + 50) for k in range(5)})
    schema = TableSchema.of(frame)
    assert (bootstrap(frame, schema, 80, 0) % 100).nunique(axis=1).eq(1).all()
    kept = (resample(frame, schema, 80, 0) % 100).apply(lambda row: row.value_counts().iloc[0], axis=1)
    assert kept.min() == 3
    assert kept.eq(3).mean() > 0.8


def test_relations_that_are_lost_and_kept() -> None:
    frame = mixed(400)
    schema = TableSchema.of(frame, "label")
    correlation = frame["age"].corr(frame["income"])
    assert correlation > 0.98
    assert abs(independent(frame, schema, 400, 0)["age"].corr(independent(frame, schema, 400, 0)["income"])) < 0.15
    for generator, least in ((cart, 0.95), (adversarial_forest, 0.75), (smote, 0.95)):
        made = generator(frame, schema, 400, 0)
        assert made["age"].corr(made["income"]) > least
        agree = (made["member"] == (made["label"] == 1)).mean()
        assert agree > 0.75
    made = cart(frame, schema, 400, 0)
    assert (made["member"] == (made["age"] > 45)).all()


def test_smote_stays_between_neighbours_of_a_class() -> None:
    frame = pd.DataFrame({"x": [0.0, 1.0, 2.0, 100.0, 101.0, 102.0], "c": list("aabbbb"), "y": list("nnnyyy")})
    made = smote(frame, TableSchema.of(frame, "y"), 200, 0)
    low = made[made["y"] == "n"]
    assert low["x"].between(0, 2).all()
    assert made.loc[made["y"] == "y", "x"].between(100, 102).all()
    assert (made.loc[made["y"] == "y", "c"] == "b").all()
    assert 0.3 < len(low) / 200 < 0.7


def test_the_forest_draws_new_numbers() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=300).round(3), "zero": np.where(np.arange(300) % 3, 0.0, 7.5)})
    made = adversarial_forest(frame, TableSchema.of(frame), 300, 0)
    assert made["x"].isin(frame["x"]).mean() < 0.5
    assert abs(made["x"].std() - frame["x"].std()) < 0.2
    assert (made["zero"] == 0).mean() > 0.5
