"""Crowd ratings in long format: a row per item and annotator."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from consilience.datasets.scale import HigherIs, Scale, scale_column, to_acceptability
from consilience.table_schema import Column, TableSchema, check_key, conform, read_table, text
from consilience.tables import ANNOTATIONS, GOLD
from consilience.theories import pick_theories


def read_ratings(
    path: Path,
    item_columns: Sequence[str],
    annotator_column: str,
    score_column: str,
    scale: Scale,
    higher_is: HigherIs,
    theory: str,
) -> pa.Table:
    """The `annotations` table of ratings on `scale`; an item's id is its columns' texts joined by "/".

    A blank rating is missing. An annotator rates an item once: a second rating of the same item is an error, not an
    average, since nothing says which was meant.

    Raises:
        UserError: a missing column, item or annotator, a rating that is not a number within `scale`, a second rating
            of an item by an annotator, an unknown theory, or a file that cannot be read.
    """
    pick_theories([theory])
    annotator = text(annotator_column)
    ratings, items, scores = _read(path, item_columns, (annotator,), scale_column(score_column, scale))
    columns = {
        "item_id": items,
        "theory": pa.repeat(theory, len(items)),
        "annotator": ratings.column(annotator_column),
        "score": to_acceptability(scores, scale, higher_is),
    }
    return _checked(pa.table(columns), ANNOTATIONS, path)


def read_gold(
    path: Path, item_columns: Sequence[str], label_column: str, scale: Scale, higher_is: HigherIs, theory: str
) -> pa.Table:
    """The `gold` table of a file with one number on `scale` per item; items as in `read_ratings`, blanks left out.

    Raises:
        UserError: as `read_ratings`.
    """
    pick_theories([theory])
    _, items, labels = _read(path, item_columns, (), scale_column(label_column, scale))
    columns = {
        "item_id": items,
        "theory": pa.repeat(theory, len(items)),
        "label": to_acceptability(labels, scale, higher_is),
    }
    table = pa.table(columns)
    return _checked(table.filter(pc.is_valid(table.column("label"))), GOLD, path)


def _read(
    path: Path, item_columns: Sequence[str], more_key: tuple[Column, ...], number: Column
) -> tuple[pa.Table, pa.ChunkedArray, pa.ChunkedArray]:
    key = (*(text(name) for name in item_columns), *more_key)
    table = read_table(path, TableSchema("ratings", (*key, number), tuple(column.name for column in key)))
    items = pc.binary_join_element_wise(*(table.column(name) for name in item_columns), "/")
    return table, items, table.column(number.name)


def _checked(table: pa.Table, schema: TableSchema, path: Path) -> pa.Table:
    """Joined ids can coincide where their parts do not."""
    table = conform(table, schema, str(path))
    check_key(table, schema, str(path))
    return table
