"""Moral Foundations Reddit Corpus (MFRC, Trager et al. 2022) as counts: a comment per row, annotators per foundation.

Counts say which value is at stake in a comment, never whether it is followed or violated: no reward comes of them.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from consilience.table_schema import TableSchema, conform, count, read_table, text
from consilience.tables import VALUE_EXAMPLES

SOURCE = "mfrc"
FOUNDATIONS = {
    "authority": ("Authority",),
    "care": ("Care",),
    "fairness": ("Equality", "Proportionality"),
    "loyalty": ("Loyalty",),
    "sanctity": ("Purity",),
}
LEAST_ANNOTATORS = 2

_FORMAT = TableSchema(
    "MFRC counts",
    (
        text("ID"),
        text("text"),
        *(count(name) for names in FOUNDATIONS.values() for name in names),
    ),
    ("ID",),
)


def read_mfrc(path: Path) -> pa.Table:
    """Relevance examples (table `value_examples`): label 1 where two annotators or more name the value, else 0.

    Fairness is Equality and Proportionality together, so an annotator who names both counts twice. Most comments were
    read by three people. A comment is its own situation.

    Raises:
        UserError: a missing column or value, a count that is no whole number of at least 0, a repeated ID, or a file
            that cannot be read.
    """
    table = read_table(path, _FORMAT)
    ids = pc.binary_join_element_wise(SOURCE, table.column("ID"), "-")
    columns = {
        "item_id": ids,
        "text": pc.utf8_trim_whitespace(table.column("text")),
        "situation": ids,
        "source": pa.repeat(SOURCE, len(table)),
        "label_source": pa.repeat("human", len(table)),
    }
    for value, names in FOUNDATIONS.items():
        count = table.column(names[0])
        for name in names[1:]:
            count = pc.add(count, table.column(name))
        columns[value] = pc.greater_equal(count, LEAST_ANNOTATORS).cast(pa.float64())
    return conform(pa.table(columns), VALUE_EXAMPLES, str(path))
