"""The Moral Integrity Corpus (Ziems et al. 2022): questions, the foundations at stake, and a person's revised answer.

Read are four columns of the release's `MIC.csv`: `Q`, `moral` (foundations joined by |, perhaps none), `worker_answer`
(the revised answer, perhaps missing) and `split` (train, dev, test; no question-answer pair is in two).
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from consilience.errors import UserError
from consilience.readers import read_batches
from consilience.table_schema import TableSchema, column_names, conform, text
from consilience.tables import QUESTIONS
from consilience.theories import VALUE_NAMES

_LIBERTY = "liberty"  # MIC's sixth foundation; CMVA-GS (arXiv 2403.12805) does not use it
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}

_FORMAT = TableSchema(
    "MIC",
    (
        text("Q"),
        text("moral", nullable=True),
        text("worker_answer", nullable=True),
        text("split", choices=tuple(_SPLITS)),
    ),
    (),
)


def read_mic(path: Path) -> pa.Table:
    """The `questions` table: a row per annotation, so that one question may stand in several, with other profiles.

    A value is 1 in the profile where the annotator names its foundation, else 0; foundation liberty is left out, and a
    row with no other has an all-zero profile. `dev` is called validation. Items are numbered: mic-1.

    Raises:
        UserError: a missing column, no question, an unknown foundation or split, or a file that cannot be read.
    """
    names = column_names(_FORMAT)
    parts = [conform(batch, _FORMAT, str(path), first) for first, batch in read_batches(path, names)]
    if not parts:
        raise UserError(f"{path}: no rows; expected columns {', '.join(names)}")
    table = pa.concat_tables(parts)
    morals = pc.split_pattern(pc.fill_null(table.column("moral"), ""), "|").to_pylist()
    known = {"", _LIBERTY, *VALUE_NAMES}
    for row, named in enumerate(morals, 1):
        if not known.issuperset(named):
            expected = ", ".join((*VALUE_NAMES, _LIBERTY))
            raise UserError(f"{path}: row {row}, column 'moral': expected {expected} joined by |, found {named!r}")
    columns = {
        "question_id": [f"mic-{row}" for row in range(1, len(table) + 1)],
        "text": table.column("Q"),
        "split": [_SPLITS[split] for split in table.column("split").to_pylist()],
        "reference": table.column("worker_answer"),
        **{value: [float(value in named) for named in morals] for value in VALUE_NAMES},
        "profile_source": pa.repeat("human", len(table)),
    }
    return conform(pa.table(columns), QUESTIONS, str(path))
