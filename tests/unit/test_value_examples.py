"""Examples of one's own, and the split: by situation, each part with its share of every value, no text on two sides."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from value_models import value_examples

from consilience.errors import UserError
from consilience.table_schema import conform
from consilience.tables import VALUE_EXAMPLES
from consilience.theories import VALUE_NAMES
from consilience.values.examples import read_own
from consilience.values.split import part_of, split_by_situation

ROOT = Path(__file__).parents[2]


def save(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(**changes: Any) -> dict[str, Any]:
    return {"value": "care", "text": "I bound the wound.", "follows": 1, "situation": "one", **changes}


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    frame = read_own(save(tmp_path / "own.jsonl", row(), row(value="loyalty", text="I fled.", follows=0)))
    assert frame["item_id"].tolist() == ["own-1", "own-2"]
    assert frame["situation"].tolist() == ["own/one", "own/one"]
    assert frame["care"].tolist()[0] == 1.0
    assert np.isnan(frame["care"][1])
    assert frame["loyalty"].tolist()[1] == 0.0
    assert frame[["authority", "fairness", "sanctity"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(value="liberty"), "row 2, column 'value': expected one of authority, care"),
        (row(follows=2), "row 2, column 'follows': expected one of 0, 1, found '2'"),
        (row(text=" "), "row 2, column 'text': expected a value"),
        (row(), "row 2 repeats row 1"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "own.jsonl", row(), bad)
    with pytest.raises(UserError) as caught:
        read_own(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_the_sample_shipped_holds_what_it_says() -> None:
    frame = read_own(ROOT / "configs/demo_values.jsonl")
    assert len(frame) == 120
    assert frame["text"].nunique() == 120
    for value in VALUE_NAMES:
        assert Counter(frame[value].dropna()) == {1.0: 12, 0.0: 12}


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 60), st.integers(3, 7), st.integers(0, 5))
def test_no_situation_and_no_text_on_two_sides(situations: int, folds: int, seed: int) -> None:
    examples = value_examples(situations, seed)
    examples["text"] = examples["text"].str.replace(
        r"\d+$", "0", regex=True
    )  # so that many stand in several situations
    split = split_by_situation(examples, folds, seed)
    for column in ("situation", "text"):
        assert (split.groupby(split[column].str.casefold())["split"].nunique() == 1).all(), column
    assert set(split["item_id"]) <= set(examples["item_id"])


def test_every_part_has_its_share_of_the_rarest_value() -> None:
    examples = value_examples(200)
    examples["sanctity"] = np.nan
    rare = examples["situation"].isin([f"s{k}" for k in range(0, 200, 20)])
    examples.loc[rare, "sanctity"] = examples["item_id"].str.endswith("-1")[rare].astype(float)
    split = split_by_situation(examples, 5, 0)
    situations = split[split["sanctity"].notna()].groupby("split")["situation"].nunique()
    assert situations.to_dict() == {"train": 6, "validation": 2, "test": 2}
    conform(pa.Table.from_pandas(split, preserve_index=False), VALUE_EXAMPLES, "here")


def test_the_split_depends_on_its_seed_alone() -> None:
    examples = value_examples(30)
    first, again = split_by_situation(examples, 5, 0), split_by_situation(examples, 5, 0)
    pd.testing.assert_frame_equal(first, again)
    assert not split_by_situation(examples, 5, 1)["split"].equals(first["split"])


def test_a_public_situation_is_parted_by_its_name_alone() -> None:
    examples = value_examples(200).assign(source="moral_stories")
    split = split_by_situation(examples, 5, 3)
    parts = split.set_index("situation")["split"].to_dict()
    assert parts == {name: part_of(name, 5, 3) for name in parts}
    assert part_of(" S1. ", 5, 3) == parts["s1"], "case, spaces and a full stop make no other situation"
    some = split_by_situation(examples[::3], 5, 3)
    assert some.set_index("situation")["split"].to_dict().items() <= parts.items(), "whatever else is in the data"
    both = split_by_situation(
        pd.concat([examples, value_examples(40).assign(situation=lambda x: "own/" + x.situation)]), 5, 3
    )
    assert both[both["source"] == "moral_stories"].set_index("situation")["split"].to_dict().items() <= parts.items()


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 10), st.integers(0, 9))
def test_a_fold_each_is_for_test_and_validation(folds: int, seed: int) -> None:
    counts = Counter(part_of(f"norm {k}", folds, seed) for k in range(4_000))
    for part, share in (("test", 1 / folds), ("validation", 1 / folds), ("train", 1 - 2 / folds)):
        assert counts[part] / 4_000 == pytest.approx(share, abs=5 * (share * (1 - share) / 4_000) ** 0.5)


def test_too_few_situations() -> None:
    with pytest.raises(UserError, match="4 situations; expected at least 5"):
        split_by_situation(value_examples(4), 5, 0)
