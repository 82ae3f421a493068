"""ETHICS (Hendrycks et al. 2021): short scenarios judged by people under five theories, in the release's own files.

The theory is told by a file's name, as released: `justice_*`, `deontology_*`, `virtue_*`, `cm_*` (commonsense),
`util_*` (utilitarianism), ending in `.csv` or `.csv.gz`. Items have no ids there and are numbered: `justice_test-1`.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from consilience.errors import UserError
from consilience.readers import read_batches
from consilience.table_schema import Column, TableSchema, column_names, conform, text
from consilience.tables import DILEMMAS, GOLD, PAIRS, VOTES

SOURCE = "ethics"
_SEPARATOR = " [SEP] "


def _format(name: str, *columns: Column) -> TableSchema:
    return TableSchema(f"ETHICS {name}", columns, ())


_LABEL = text("label", choices=("0", "1"))
_SCENARIO = text("scenario")
_INPUT = text("input")
_FORMATS = {
    "justice": _format("justice", _LABEL, _SCENARIO),
    "deontology": _format("deontology", _LABEL, _SCENARIO, text("excuse")),
    "virtue": _format("virtue", _LABEL, _SCENARIO),
    "cm": _format("commonsense", _LABEL, _INPUT, text("is_short", choices=("True", "False"))),
}
_AMBIGUOUS = _format("commonsense", _INPUT)
_PLEASANT = _format("utilitarianism", text("more_pleasant"), text("less_pleasant"))


def read_scenarios(path: Path) -> tuple[pa.Table, pa.Table | None]:
    """(`dilemmas`, `gold`) of a file of justice, deontology, virtue or commonsense.

    Label 1 is always the acceptable side: a reasonable claim (justice) or excuse (deontology; text = scenario and
    excuse), a trait that fits what the person does (virtue; the trait is on a line of its own), conduct that is not
    clearly wrong (commonsense, where the source has 1 = wrong; `group` is short or long). `cm_ambig`, posts on which
    people disagree, has no labels: its gold is None.

    Raises:
        UserError: a name that is none of the release's, a missing column, a missing value, a label other than 0 or 1,
            or a file that cannot be read.
    """
    stem = path.name.split(".")[0]
    prefix = stem.partition("_")[0]
    if stem == "cm_ambig":
        return _dilemmas(stem, _read(path, _AMBIGUOUS, headerless=True).column("input"), path), None
    if prefix not in _FORMATS:
        expected = ", ".join(f"{known}_*" for known in _FORMATS)
        raise UserError(f"{path}: not a name of the ETHICS release; expected {expected} (.csv, .csv.gz)")
    table = _read(path, _FORMATS[prefix])
    label = table.column("label").cast(pa.float64())
    group = None
    if prefix == "cm":
        theory, text, label = "commonsense", table.column("input"), pc.subtract(1.0, label)
        group = pc.if_else(pc.equal(table.column("is_short"), "True"), "short", "long")
    else:
        theory, text = prefix, table.column("scenario")
        if prefix == "deontology":
            text = pc.binary_join_element_wise(text, pc.utf8_trim_whitespace(table.column("excuse")), " ")
        elif prefix == "virtue":
            text = _with_trait(text, path)
    dilemmas = _dilemmas(stem, text, path, group)
    gold = pa.table([dilemmas.column("item_id"), pa.repeat(theory, len(label)), label], ["item_id", "theory", "label"])
    return dilemmas, conform(gold, GOLD, str(path))


def read_utilitarianism(path: Path) -> tuple[pa.Table, pa.Table]:
    """(`pairs`, `votes`) of a `util_*` file: two columns without a header, the first the more pleasant.

    As in the file, `action_0` is the more pleasant of every pair: show both orders to a model, or it can win by place.
    `votes` hold one vote per pair, for `action_1`: the less pleasant, as Scruples counts the less ethical.

    Raises:
        UserError: rows of other than two columns, a missing value, or a file that cannot be read.
    """
    table = _read(path, _PLEASANT, headerless=True)
    items = _ids(path.name.split(".")[0], len(table))
    pairs = {
        "item_id": items,
        "action_0": table.column("more_pleasant"),
        "action_1": table.column("less_pleasant"),
        "source": pa.repeat(SOURCE, len(table)),
    }
    votes = pa.concat_tables(
        pa.table({"item_id": items, "option": pa.repeat(option, len(items)), "count": pa.repeat(count, len(items))})
        for option, count in (("action_0", 0), ("action_1", 1))
    )
    return conform(pa.table(pairs), PAIRS, str(path)), conform(votes, VOTES, str(path))


def _read(path: Path, schema: TableSchema, headerless: bool = False) -> pa.Table:
    """All rows, checked; the columns of a headerless file are the schema's, in order."""
    names = column_names(schema)
    batches = read_batches(path, names, names if headerless else None)
    parts = [conform(batch, schema, str(path), first) for first, batch in batches]
    if not parts:
        raise UserError(f"{path}: no rows; expected columns {', '.join(names)}")
    return pa.concat_tables(parts)


def _ids(stem: str, rows: int) -> pa.Array:
    return pa.array([f"{stem}-{row}" for row in range(1, rows + 1)])


def _with_trait(scenarios: pa.ChunkedArray, path: Path) -> pa.Array:
    texts = []
    for row, scenario in enumerate(scenarios.to_pylist(), 1):
        conduct, found, trait = scenario.rpartition(_SEPARATOR)
        if not found:
            raise UserError(f"{path}: row {row}, column 'scenario': expected SCENARIO{_SEPARATOR}TRAIT")
        texts.append(f"{conduct}\n\nTrait said to show here: {trait}")
    return pa.array(texts)


def _dilemmas(
    stem: str, text: pa.ChunkedArray | pa.Array, path: Path, group: pa.ChunkedArray | None = None
) -> pa.Table:
    columns = {"item_id": _ids(stem, len(text)), "text": text, "source": pa.repeat(SOURCE, len(text))}
    if group is not None:
        columns["group"] = group
    return conform(pa.table(columns), DILEMMAS, str(path))
