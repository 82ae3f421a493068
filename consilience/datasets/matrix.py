"""A wide score matrix: a row per item, a column per annotator, perhaps one of people's mean."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from consilience.datasets.scale import HigherIs, Scale, scale_column, to_acceptability
from consilience.errors import UserError
from consilience.readers import read_batches
from consilience.table_schema import TableSchema, conform, read_table, text
from consilience.tables import ANNOTATIONS, GOLD
from consilience.theories import pick_theories

AFTER = "after:"


def read_matrix(
    path: Path,
    item_column: str,
    annotator_columns: Sequence[str] | str,
    scale: Scale,
    higher_is: HigherIs,
    theory: str,
    human_column: str | None = None,
) -> tuple[pa.Table, pa.Table | None]:
    """(`annotations`, `gold` or None) of a matrix; scores and people's mean on `scale` become acceptability, 0..1.

    `annotator_columns` is a list of names, or `after:COLUMN` for every column to the right of COLUMN (but the item
    and human columns). A blank score is missing; an item without a human value has no gold.

    Raises:
        UserError: a column the file lacks or that is named twice, an item that is missing or repeated, a score that is
            not a number within `scale`, an unknown theory, or a file that cannot be read.
    """
    pick_theories([theory])
    if isinstance(annotator_columns, str):
        annotators = _columns_after(path, annotator_columns, [item_column, human_column])
    else:
        annotators = list(annotator_columns)
    if not annotators:
        raise UserError(f"{path}: no annotator columns ({annotator_columns!r}); expected at least one")
    numbers = [*annotators, human_column] if human_column else annotators
    names = [item_column, *numbers]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{path}: column '{repeated}' is named twice among item, annotators and human")
    schema = TableSchema(
        "score matrix",
        (text(item_column), *(scale_column(name, scale) for name in numbers)),
        (item_column,),
    )
    matrix = read_table(path, schema)

    def column(name: str) -> pa.ChunkedArray:
        return to_acceptability(matrix.column(name), scale, higher_is)

    items = matrix.column(item_column)
    theories = pa.repeat(theory, len(items))
    annotations = pa.concat_tables(
        pa.table(
            [items, theories, pa.repeat(name, len(items)), column(name)], ["item_id", "theory", "annotator", "score"]
        )
        for name in annotators
    )
    gold = None
    if human_column:
        human = pa.table([items, theories, column(human_column)], ["item_id", "theory", "label"])
        gold = conform(human.filter(pc.is_valid(human.column("label"))), GOLD, str(path))
    return conform(annotations, ANNOTATIONS, str(path)), gold


def _columns_after(path: Path, spec: str, others: Sequence[str | None]) -> list[str]:
    if not spec.startswith(AFTER):
        raise UserError(f"annotator columns '{spec}': expected a list of column names, or {AFTER}COLUMN")
    last = spec.removeprefix(AFTER)
    first = next(read_batches(path), None)
    if first is None:
        raise UserError(f"{path}: no rows; expected a score matrix")
    names = first[1].column_names
    if last not in names:
        raise UserError(f"{path}: missing column '{last}'; found columns: {', '.join(names)}")
    return [name for name in names[names.index(last) + 1 :] if name not in others]
