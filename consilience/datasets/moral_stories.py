"""Moral Stories (Emelin et al. 2021): a norm, a situation, an action that keeps the norm and one that breaks it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from consilience.datasets.fields import name_field, text_field
from consilience.errors import UserError
from consilience.readers import RowError, read_rows

SOURCE = "moral_stories"
_TOLD = ["norm", "moral_action", "immoral_action"]


def read_moral_stories(paths: Sequence[Path]) -> pd.DataFrame:
    """One row per story of all files; a story that stands in several files is read once.

    Rows hold `ID`, `norm`, `moral_action`, `immoral_action`, and the context where the file gives it: `context`, or
    `situation` and `intention`. Rows with one action only (the classification tasks of the release) are refused.

    Returns:
        `story_id`, `norm`, `context` (missing where no file gives it), `moral_action`, `immoral_action`.

    Raises:
        UserError: a missing field or one of the wrong kind, a story that differs between two rows, no rows, or a file
            that cannot be read.
    """
    stories: dict[str, dict[str, Any]] = {}
    for path in paths:
        empty = True
        for number, row in read_rows(path):
            empty = False
            try:
                if isinstance(row, RowError):
                    raise row
                _add(stories, _story(row))
            except RowError as error:
                raise UserError(f"{path}: row {number}: {error}") from None
        if empty:
            raise UserError(f"{path}: no rows; expected Moral Stories with ID, {', '.join(_TOLD)}")
    return pd.DataFrame(stories.values(), columns=["story_id", "norm", "context", "moral_action", "immoral_action"])


def _story(row: dict[str, Any]) -> dict[str, Any]:
    story_id = name_field(row, "ID")
    if story_id is None:
        raise RowError("column 'ID': expected a value, found none")
    told = {column: text_field(row, column).strip() for column in _TOLD}
    return {"story_id": story_id, "context": _context(row), **told}


def _context(row: dict[str, Any]) -> str | None:
    if row.get("context") is not None:
        return text_field(row, "context").strip()
    parts = [text_field(row, column).strip() for column in ("situation", "intention") if row.get(column) is not None]
    return " ".join(parts) or None


def _add(stories: dict[str, dict[str, Any]], story: dict[str, Any]) -> None:
    known = stories.setdefault(story["story_id"], story)
    for column in _TOLD:
        if known[column] != story[column]:
            raise RowError(f"column '{column}': story {story['story_id']} stands elsewhere with another text")
    known["context"] = known["context"] or story["context"]
