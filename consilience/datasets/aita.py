"""Dumps of r/AmItheAsshole: a post per row, with the community's verdict.

The format is that of the public dump `aita_clean` (iterative/aita_dataset): columns `title`, `body`, `verdict`
(asshole, not the asshole, everyone sucks, no assholes here), `is_asshole` (1 for the first and third) and `id`.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa

from consilience.datasets.fields import name_field, text_field
from consilience.errors import UserError
from consilience.readers import RowError, read_rows
from consilience.table_schema import conform
from consilience.tables import GOLD

SOURCE = "aita"
THEORY = "commonsense"
_GONE = ("[deleted]", "[removed]")
_ACCEPTABLE = {"asshole": 0.0, "everyone sucks": 0.0, "not the asshole": 1.0, "no assholes here": 1.0}
_IS_ASSHOLE = {"0": 1.0, "false": 1.0, "1": 0.0, "true": 0.0}


def is_aita(columns: Collection[str]) -> bool:
    """Whether these are the columns of a dump: `title`, `body`, and `verdict` or `is_asshole` or both; no `text`."""
    return (
        {"title", "body"} <= set(columns)
        and "text" not in columns
        and ("verdict" in columns or "is_asshole" in columns)
    )


def read_post(number: int, row: dict[str, Any]) -> tuple[str, str]:
    """(item_id, text) of row `number`: the row's `id`, or aita-NUMBER without one; title, blank line, body.

    Raises:
        RowError: no title, no body, or the body was deleted or removed.
    """
    title, body = text_field(row, "title"), text_field(row, "body")
    if body.strip().lower() in _GONE:
        raise RowError(f"column 'body': the post's text is gone, found {body.strip()}")
    return name_field(row, "id") or f"aita-{number}", f"{title}\n\n{body}"


def read_gold(path: Path) -> pa.Table:
    """The `gold` table of a dump: label 1 where the author is not in the wrong, 0 where they are; theory commonsense.

    `is_asshole` counts where it is given, else `verdict`; a post with neither has no label. The items are those that
    `prepare_dilemmas` accepts: posts whose text is gone and repeated ids are left out.

    Raises:
        UserError: no such file, not a dump, an unknown verdict, or not one label.
    """
    labels: dict[str, float | None] = {}
    columns: set[str] = set()
    for number, row in read_rows(path):
        if isinstance(row, RowError):
            continue
        columns |= row.keys()
        try:
            item, _ = read_post(number, row)
        except RowError:
            continue
        if item not in labels:
            labels[item] = _label(path, number, row)
    if not is_aita(columns):
        raise UserError(f"{path}: not a dump of AITA posts; expected columns title, body, and verdict or is_asshole")
    gold = [{"item_id": item, "theory": THEORY, "label": label} for item, label in labels.items() if label is not None]
    if not gold:
        raise UserError(f"{path}: no post with a verdict; expected column is_asshole or verdict to hold values")
    return conform(pa.Table.from_pylist(gold), GOLD, str(path))


def _label(path: Path, number: int, row: dict[str, Any]) -> float | None:
    for column, known in (("is_asshole", _IS_ASSHOLE), ("verdict", _ACCEPTABLE)):
        value = row.get(column)
        if value is None or value == "":
            continue
        label = known.get(str(value).strip().lower().removesuffix(".0"))
        if label is None:
            expected = ", ".join(known)
            raise UserError(f"{path}: row {number}, column '{column}': expected one of {expected}, found {value!r}")
        return label
    return None
