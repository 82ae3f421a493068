"""Moral Stories: stories of several files are one, and the moral action follows the norm's values."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from consilience.datasets.moral_stories import read_moral_stories
from consilience.errors import UserError
from consilience.theories import VALUE_NAMES
from consilience.values.examples import story_examples


def story(item: str, **changes: Any) -> dict[str, Any]:
    row = {"ID": item, "norm": f"Mind {item}.", "moral_action": f"Ana minds {item}.", "label": "1"}
    return {**row, "immoral_action": f"Ana harms {item}.", **changes}


def save(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_with_and_without_context_are_joined(tmp_path: Path) -> None:
    bare = save(tmp_path / "bare.jsonl", story("x"), story("y"))
    context = save(tmp_path / "context.jsonl", story("y", context="Ana meets y. Ana is in haste."))
    whole = save(tmp_path / "whole.jsonl", story("z", situation="Ana meets z.", intention="Ana is in haste."))
    frame = read_moral_stories([bare, context, whole])
    assert frame["story_id"].tolist() == ["x", "y", "z"]
    assert frame["context"].isna().tolist() == [True, False, False]
    assert frame["context"].tolist()[1:] == ["Ana meets y. Ana is in haste.", "Ana meets z. Ana is in haste."]
    assert frame["moral_action"][2] == "Ana minds z."


def test_the_moral_action_follows_the_values_of_the_norm(tmp_path: Path) -> None:
    stories = read_moral_stories([save(tmp_path / "a.jsonl", story("x"), story("y"), story("z"))])
    profiles = pd.DataFrame(0.0, index=range(3), columns=list(VALUE_NAMES))
    profiles.loc[0, ["care", "loyalty"]] = 1.0
    profiles.loc[2, "sanctity"] = 1.0
    profiles["profile_source"] = ["human", "human", "predicted"]
    frame = story_examples(stories, profiles)
    assert frame["item_id"].tolist() == ["x/moral", "x/immoral", "z/moral", "z/immoral"], "y is about no value"
    assert frame["text"].tolist() == ["Ana minds x.", "Ana harms x.", "Ana minds z.", "Ana harms z."]
    assert frame["label_source"].tolist() == ["human", "human", "predicted", "predicted"]
    assert frame["care"].tolist()[:2] == [1.0, 0.0]
    assert frame["loyalty"].tolist()[:2] == [1.0, 0.0]
    assert frame["care"].isna().tolist()[2:] == [True, True]
    assert frame["sanctity"].tolist()[2:] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (story("y", moral_action=None), "row 2: column 'moral_action': expected a value, found none"),
        (story("y", norm=3), "row 2: column 'norm': expected text, found 3"),
        (story("y", ID=None), "row 2: column 'ID': expected a value"),
        (story("x", norm="Mind the gap."), "row 2: column 'norm': story x stands elsewhere with another text"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "a.jsonl", story("x"), row)
    with pytest.raises(UserError) as caught:
        read_moral_stories([path])
    assert str(caught.value).startswith(f"{path}: {message}")


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows"):
        read_moral_stories([save(tmp_path / "a.jsonl")])
