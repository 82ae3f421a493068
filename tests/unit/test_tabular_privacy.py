"""What a synthetic table gives away: known distances, and a generator that only copies."""

import numpy as np
import pandas as pd
import pytest
from tabular_tables import mixed

from consilience.tabular.privacy import privacy
from consilience.tabular.schema import TableSchema


def test_a_copy_cat_is_caught() -> None:
    train, held_out = mixed(200), mixed(60, seed=1)
    found = privacy(train, held_out, train.sample(200, replace=True, random_state=0), TableSchema.of(train))
    assert found.leaks == ["exact_copies", "closest_ratio", "membership_auc"]
    assert found.exact_copies == 1.0
    assert found.exact_copies_held_out == 0.0
    assert found.closest == found.closest_ratio == 0.0
    assert found.membership_auc > 0.8


def test_fresh_rows_give_nothing_away() -> None:
    train, held_out = mixed(200), mixed(100, seed=1)
    found = privacy(train, held_out, mixed(200, seed=2), TableSchema.of(train))
    assert found.leaks == []
    assert found.exact_copies == 0.0
    assert found.closest_ratio == pytest.approx(1, abs=0.1)


def test_known_distances() -> None:
    train = pd.DataFrame({"n": [0.0, 10.0, np.nan], "c": ["a", "b", None]})
    schema = TableSchema.of(train)

    def closest(n: float | None, c: str | None) -> float:
        return privacy(train, train, pd.DataFrame({"n": [n], "c": [c]}).astype({"n": float}), schema).closest

    assert closest(0.0, "a") == 0.0
    assert closest(4.0, "a") == pytest.approx(0.2)
    assert closest(4.0, "b") == pytest.approx(0.3)
    assert closest(4.0, "new") == pytest.approx(0.7)
    assert closest(99.0, "new") == 1.0
    assert closest(None, None) == 0.0
    assert closest(None, "a") == pytest.approx(0.5)
    assert closest(5.0, None) == pytest.approx(0.5)


def test_copies_that_are_chance_are_none() -> None:
    frame = pd.DataFrame({"a": [0, 1] * 40, "b": ["x", "y"] * 40})
    found = privacy(frame, frame[:30], frame[:60], TableSchema.of(frame))
    assert found.exact_copies == found.exact_copies_held_out == 1.0
    assert np.isnan(found.closest_ratio)
    assert found.membership_auc == 0.5
    assert found.leaks == []


def test_copies_know_the_precision_and_every_type() -> None:
    train = mixed(50)
    same = train.assign(income=train["income"] + 1e-12, age=train["age"].astype(float))
    schema = TableSchema.of(train)
    assert privacy(train, train[:5], same, schema).exact_copies == 1.0
    assert privacy(train, train[:5], train.assign(member=~train["member"]), schema).exact_copies == 0.0
    assert privacy(train, train[:5], train.assign(city=train["city"].fillna("")), schema).exact_copies < 1.0


def test_without_held_out_rows() -> None:
    train = mixed(20)
    found = privacy(train, train[:0], train, TableSchema.of(train))
    assert found.exact_copies == 1.0
    assert np.isnan([found.exact_copies_held_out, found.closest, found.closest_ratio, found.membership_auc]).all()
    assert found.leaks == []
