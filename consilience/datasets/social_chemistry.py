"""Social Chemistry 101 (Forbes et al. 2020): rules of thumb, the moral foundations they rest on, actions judged.

Reads the release's own columns (TSV or CSV, also gzipped). Direction as released: a judgement of -2 is very bad,
2 very good.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from consilience.errors import UserError
from consilience.readers import read_batches
from consilience.table_schema import TableSchema, column_names, conform, maybe, number, text
from consilience.theories import VALUE_NAMES

SOURCE = "social_chemistry"
FOUNDATIONS = {
    "authority": "authority-subversion",
    "care": "care-harm",
    "fairness": "fairness-cheating",
    "loyalty": "loyalty-betrayal",
    "sanctity": "sanctity-degradation",
}

_FORMAT = TableSchema(
    "Social Chemistry",
    (
        text("situation-short-id"),
        text("rot"),
        text("rot-moral-foundations", nullable=True),
        text("action", nullable=True),
        number("action-moral-judgment", nullable=True, low=-2.0, high=2.0),
        maybe(text("rot-bad", choices=("0", "1"))),
    ),
    (),
)


def read_social_chemistry(path: Path) -> pd.DataFrame:
    """One row per annotated rule of thumb; those marked as bad (`rot-bad` = 1) are left out.

    Returns:
        `item_id` (rows are numbered: FILE-1), `situation` (its id), `rot`, `action` and `judgement` (-2..2; both may be
        missing), and a column per value: 1 where the annotator names its foundation, else 0.

    Raises:
        UserError: a missing column or value, an unknown foundation, a judgement that is not a number from -2 to 2, or
            a file that cannot be read.
    """
    parts = [
        conform(batch, _FORMAT, str(path), first_row) for first_row, batch in read_batches(path, column_names(_FORMAT))
    ]
    if not parts:
        raise UserError(f"{path}: no rows; expected Social Chemistry's columns {', '.join(column_names(_FORMAT))}")
    table = pa.concat_tables(parts)
    foundations = pc.split_pattern(pc.fill_null(table.column("rot-moral-foundations"), ""), "|").to_pylist()
    _check_known(foundations, path)
    stem = path.name.split(".")[0]
    frame = pd.DataFrame(
        {
            "item_id": [f"{stem}-{row}" for row in range(1, len(table) + 1)],
            "situation": table.column("situation-short-id").to_pylist(),
            "rot": pc.utf8_trim_whitespace(table.column("rot")).to_pylist(),
            "action": table.column("action").to_pylist(),
            "judgement": table.column("action-moral-judgment").to_numpy(),
            **{value: [float(FOUNDATIONS[value] in named) for named in foundations] for value in VALUE_NAMES},
        }
    )
    if "rot-bad" in table.column_names:
        frame = frame[pc.fill_null(pc.equal(table.column("rot-bad"), "0"), True).to_numpy()]
    return frame.reset_index(drop=True)


def _check_known(foundations: list[list[str]], path: Path) -> None:
    known = {"", *FOUNDATIONS.values()}
    for row, named in enumerate(foundations, 1):
        if not known.issuperset(named):
            raise UserError(
                f"{path}: row {row}, column 'rot-moral-foundations': expected {', '.join(FOUNDATIONS.values())} joined "
                f"by |, found {'|'.join(named)!r}"
            )
