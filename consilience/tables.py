"""The tables that cross every boundary: one schema each, checked on read and on write.

Long format, Parquet; JSONL and CSV are accepted as input. Direction is fixed: score, gold and human share all mean
acceptability, 1 = acceptable. Empty and null are missing; NaN and infinities are errors. Rows are counted from 1,
the first row of data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from consilience.errors import UserError
from consilience.files import atomic_path
from consilience.lm.scorer import STATUSES
from consilience.readers import read_batches
from consilience.theories import THEORY_NAMES, VALUE_NAMES


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `optional` may be absent from a file, `nullable` may hold missing values."""

    name: str
    type: pa.DataType
    optional: bool = False
    nullable: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A named table: its columns and the columns that together identify a row."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def arrow(self) -> pa.Schema:
        """All columns, the optional ones included, as an Arrow schema."""
        return pa.schema([(column.name, column.type) for column in self.columns])


def _text(name: str, **more: object) -> Column:
    return Column(name, pa.string(), **more)  # type: ignore[arg-type]


def _share(name: str, **more: object) -> Column:
    return Column(name, pa.float64(), low=0.0, high=1.0, **more)  # type: ignore[arg-type]


def _number(name: str, **more: object) -> Column:
    return Column(name, pa.float64(), **more)  # type: ignore[arg-type]


def _correlation(name: str) -> Column:
    return Column(name, pa.float64(), nullable=True, low=-1.0, high=1.0)


def _count(name: str, **more: object) -> Column:
    return Column(name, pa.int64(), low=0, **more)  # type: ignore[arg-type]


_THEORY = _text("theory", choices=THEORY_NAMES)
_THEORY_OR_ALL = _text("theory", choices=(*THEORY_NAMES, "all"))
_MAYBE = {"optional": True, "nullable": True}

DILEMMAS = TableSchema(
    "dilemmas", (_text("item_id"), _text("text"), _text("source", **_MAYBE), _text("group", **_MAYBE)), ("item_id",)
)
PAIRS = TableSchema(
    "pairs", (_text("item_id"), _text("action_0"), _text("action_1"), _text("source", **_MAYBE)), ("item_id",)
)
VOTES = TableSchema(
    "votes",
    (_text("item_id"), _text("theory", choices=THEORY_NAMES, **_MAYBE), _text("option"), _count("count")),
    ("item_id", "theory", "option"),
)
GOLD = TableSchema("gold", (_text("item_id"), _THEORY, _share("label")), ("item_id", "theory"))
ANNOTATORS = TableSchema(
    "annotators",
    (
        _text("annotator"),
        _text("kind"),
        _text("source", nullable=True),
        _text("revision", nullable=True),
        _text("digest", nullable=True),
        _text("licence", nullable=True),
        _text("persona", nullable=True),
        _text("elicitation", nullable=True),
        _text("group", **_MAYBE),
        _text("adapter", **_MAYBE),
        _text("artefact", **_MAYBE),
        _text("parent", **_MAYBE),
    ),
    ("annotator",),
)
ANNOTATIONS = TableSchema(
    "annotations",
    (
        _text("item_id"),
        _THEORY,
        _text("annotator"),
        _share("score", nullable=True),
        _text("status", choices=STATUSES, optional=True),
        _share("answer_mass", **_MAYBE),
        _text("fingerprint", **_MAYBE),
    ),
    ("item_id", "theory", "annotator"),
)
CONSENSUS = TableSchema(
    "consensus",
    (
        _text("item_id"),
        _THEORY,
        _share("consensus", nullable=True),
        _share("mean", **_MAYBE),
        _share("calibrated", **_MAYBE),
        _number("sd", low=0.0, **_MAYBE),
        _share("ci_low", **_MAYBE),
        _share("ci_high", **_MAYBE),
        _count("n_annotators"),
        _number("disagreement", low=0.0, nullable=True),
    ),
    ("item_id", "theory"),
)
RELIABILITY = TableSchema(
    "reliability",
    (
        _text("annotator"),
        _THEORY_OR_ALL,
        *(_number(f"{name}{c}", nullable=True) for c in "10" for name in ("mu", "sigma")),
        *(_number(f"{name}{c}", nullable=True) for c in "10" for name in ("mean", "sd")),
        _number("informativeness", low=0.0, nullable=True),
        _number("ci_low", **_MAYBE),
        _number("ci_high", **_MAYBE),
        _count("n"),
    ),
    ("annotator", "theory"),
)
ALIGNMENT = TableSchema(
    "alignment",
    (
        _text("annotator"),
        _THEORY_OR_ALL,
        _share("f1", nullable=True),
        _share("f1_mean", **_MAYBE),
        _count("n"),
        Column("flagged", pa.bool_()),
        _text("reason", nullable=True),
    ),
    ("annotator", "theory"),
)
INFLUENCE = TableSchema(
    "influence",
    (
        _text("annotator"),
        *(_share(f"{method}_{what}", nullable=True) for method in ("mean", "em") for what in ("shift", "flipped")),
    ),
    ("annotator",),
)
REALIGNMENT = TableSchema(
    "realignment",
    (
        _text("annotator"),
        _THEORY,
        _text("verdict", choices=("kept", "rolled back", "stopped")),
        _text("reason", nullable=True),
        _count("items"),
        _count("held_out", nullable=True),
        *(_share(f"f1_{arm}", nullable=True) for arm in ("raw", "head", "tokens", "lambda0")),
        *(_number(f"js_{arm}", low=0.0, nullable=True) for arm in ("raw", "head", "tokens", "lambda0")),
        *(
            _number(f"{gain}{end}", nullable=True)
            for gain in ("f1_gain", "js_gain", "f1_gain_raw", "js_gain_raw")
            for end in ("", "_low", "_high")
        ),
        _text("artefact", nullable=True),
        _count("artefact_bytes", nullable=True),
    ),
    ("annotator", "theory"),
)
REALIGNED_F1 = TableSchema(
    "realigned_f1",
    (
        _text("pair_annotator"),
        _text("pair_theory", choices=THEORY_NAMES),
        _text("annotator"),
        _THEORY,
        _share("f1_before", nullable=True),
        _share("f1_after", nullable=True),
        Column("realigned", pa.bool_()),
    ),
    ("pair_annotator", "pair_theory", "annotator", "theory"),
)
AGREEMENT = TableSchema(
    "agreement",
    (_text("annotator"), _text("other"), _correlation("error_correlation"), _correlation("residual_correlation")),
    ("annotator", "other"),
)
FAMILIES = TableSchema(
    "families",
    (
        _text("annotator"),
        _text("family", nullable=True),
        _text("closest", nullable=True),
        _correlation("correlation"),
    ),
    ("annotator",),
)
GROUPS = TableSchema(
    "groups",
    (
        _text("item_id"),
        _THEORY,
        _text("group"),
        _share("consensus"),
        _number("sd", low=0.0),
        _count("n_annotators"),
        _text("method", choices=("calibrated", "mean")),
    ),
    ("item_id", "theory", "group"),
)
CONTESTED = TableSchema(
    "contested",
    (
        _text("item_id"),
        _THEORY,
        _text("highest"),
        _text("lowest"),
        *(_share(name) for name in ("difference", "p", "q")),
    ),
    ("item_id", "theory"),
)
NOISE = TableSchema(
    "noise",
    (
        _text("annotator"),
        _number("noise_sd", low=0.0),
        _share("noise_share", nullable=True),
        _number("shift"),
        _count("n"),
    ),
    ("annotator",),
)
DRIFT = TableSchema(
    "drift", (_text("annotator"), _count("n"), _share("p"), Column("alarm", pa.bool_())), ("annotator",)
)
CALIBRATION = TableSchema(
    "calibration",
    (_text("method"), _share("consensus"), _share("people"), _count("n")),
    ("method", "consensus"),
)
QUESTIONS = TableSchema(
    "questions",
    (
        _text("question_id"),
        _text("text"),
        _text("split"),
        _text("situation", **_MAYBE),
        _text("reference", **_MAYBE),
        *(_share(value) for value in VALUE_NAMES),
        _text("profile_source", choices=("human", "predicted")),
    ),
    ("question_id",),
)
ANSWERS = TableSchema(
    "answers",
    (
        _text("question_id"),
        _text("system"),
        _text("text", nullable=True),
        _text("value", choices=VALUE_NAMES, **_MAYBE),
        _number("reward", **_MAYBE),
    ),
    ("question_id", "system"),
)
VALUE_EXAMPLES = TableSchema(
    "value_examples",
    (
        _text("item_id"),
        _text("text"),
        _text("situation"),
        _text("source"),
        _text("label_source", choices=("human", "predicted")),
        _text("split", choices=("train", "validation", "test"), optional=True),
        *(_share(value, nullable=True) for value in VALUE_NAMES),
    ),
    ("item_id",),
)
VALUE_METRICS = TableSchema(
    "value_metrics",
    (
        _text("question", choices=("relevance", "follows")),
        _text("value", choices=VALUE_NAMES),
        _text("examples"),
        _text("system", choices=("classifier", "bag_of_words", "majority")),
        *(
            _share(f"{what}{end}", nullable=True)
            for what in ("auc", "accuracy", "ece")
            for end in ("", "_low", "_high")
        ),
        _count("n"),
        _count("positives"),
        _count("situations"),
    ),
    ("question", "value", "examples", "system"),
)
VALUE_CLASSIFIERS = TableSchema(
    "value_classifiers",
    (
        _text("question", choices=("relevance", "follows")),
        _text("value", choices=VALUE_NAMES),
        _text("verdict", choices=("usable", "refused", "untrained")),
        _text("reason", nullable=True),
        *(_number(f"auc_gain{end}", nullable=True) for end in ("", "_low", "_high")),
        _number("temperature", low=0.0, nullable=True),
        _share("threshold", nullable=True),
        _count("train"),
        _count("train_human"),
    ),
    ("question", "value"),
)
AGENTS = TableSchema(
    "agents",
    (
        _text("value", choices=VALUE_NAMES),
        _text("measure", choices=("reward", "judge", "kl", "length", "ended", "repetition")),
        *(
            _number(f"{name}{end}", nullable=True)
            for name in ("base", "agent", "gain")
            for end in ("", "_low", "_high")
        ),
        _count("n"),
    ),
    ("value", "measure"),
)
CALIBRATE_METRICS = TableSchema(
    "calibrate_metrics",
    (
        _text("system"),
        _text("metric", choices=("ce", "ce_calibrated", "dm", "dm_1", "accuracy", "f1_macro", "ece", "js", "tv")),
        *(_number(name, low=0.0, nullable=True) for name in ("value", "low", "high")),
    ),
    ("system", "metric"),
)
CALIBRATE_PREDICTIONS = TableSchema(
    "calibrate_predictions",
    (
        _text("item_id"),
        _text("system"),
        _text("option"),
        *(_share(name) for name in ("p", "p_calibrated", "people")),
    ),
    ("item_id", "system", "option"),
)
REJECTED = TableSchema("rejected", (Column("row", pa.int64(), low=1), _text("reason")), ("row", "reason"))


def read_table(path: Path, schema: TableSchema) -> pa.Table:
    """Read and check a whole table (Parquet, JSONL or CSV, the last two also gzipped).

    Raises:
        UserError: no such file, not UTF-8 or malformed, a missing column, a value of the wrong type or outside its
            range, an unknown name, a duplicate key, or no rows at all.
    """
    parts = [
        conform(batch, schema, str(path), first_row) for first_row, batch in read_batches(path, column_names(schema))
    ]
    table = pa.concat_tables(parts, promote_options="default") if parts else None
    if table is None or table.num_rows == 0:
        raise UserError(f"{path}: no rows; expected table '{schema.name}' with columns {', '.join(required(schema))}")
    if any(part.num_columns < table.num_columns for part in parts):
        table = conform(table, schema, str(path))
    check_key(table, schema, str(path))
    return table


def write_table(table: pa.Table, path: Path, schema: TableSchema) -> None:
    """Check `table` and write it as Parquet, atomically: `path` holds the old file or the new one, whole."""
    table = conform(table, schema, str(path))
    check_key(table, schema, str(path))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def column_names(schema: TableSchema) -> list[str]:
    """All columns, the optional ones included."""
    return [column.name for column in schema.columns]


def required(schema: TableSchema) -> list[str]:
    """The columns that a file must have."""
    return [column.name for column in schema.columns if not column.optional]


def conform(table: pa.Table, schema: TableSchema, where: str, first_row: int = 1) -> pa.Table:
    """`table` with exactly the schema's columns that it has, cast and checked; other columns are dropped.

    Raises:
        UserError: as `read_table`, but for duplicates; `where` and the row number are in the message.
    """
    names: list[str] = []
    columns: list[pa.ChunkedArray] = []
    for column in schema.columns:
        if column.name not in table.column_names:
            if column.optional:
                continue
            found = ", ".join(table.column_names) or "none"
            raise UserError(f"{where}: missing column '{column.name}' of table '{schema.name}'; found columns: {found}")
        names.append(column.name)
        columns.append(_conform_column(table.column(column.name), column, where, first_row))
    return pa.table(columns, names=names)


def _conform_column(values: pa.ChunkedArray, column: Column, where: str, first_row: int) -> pa.ChunkedArray:
    if isinstance(values, pa.Array):
        values = pa.chunked_array([values])
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        trimmed = pc.utf8_trim_whitespace(values)
        values = pc.if_else(pc.equal(trimmed, ""), None, values if column.type == pa.string() else trimmed)
    cast = _cast(values, column, where, first_row)

    def refuse(bad: pa.ChunkedArray, expected: str) -> None:
        row = pc.index(bad, True).as_py()
        if row >= 0:
            raise UserError(
                f"{where}: row {first_row + row}, column '{column.name}': {expected}, found {cast[row].as_py()!r}"
            )

    if not column.nullable:
        refuse(pc.is_null(cast), "expected a value")
    if column.type == pa.float64():
        refuse(
            pc.fill_null(pc.invert(pc.is_finite(cast)), False), "expected a finite number (leave it empty if missing)"
        )
    for limit, beyond in ((column.low, pc.less), (column.high, pc.greater)):
        if limit is not None:
            limits = f"of at least {column.low:g}" if column.high is None else f"from {column.low:g} to {column.high:g}"
            outside = beyond(cast, pa.scalar(limit).cast(column.type))
            refuse(pc.fill_null(outside, False), f"expected a number {limits}")
    if column.choices is not None:
        known = pc.or_(pc.is_null(cast), pc.is_in(cast, pa.array(column.choices)))
        refuse(pc.invert(known), f"expected one of {', '.join(column.choices)}")
    return cast


def _cast(values: pa.ChunkedArray, column: Column, where: str, first_row: int) -> pa.ChunkedArray:
    try:
        return values.cast(column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        kind = {"double": "a number", "int64": "a whole number", "bool": "true or false"}.get(str(column.type), "text")
        for row, value in enumerate(values):
            try:
                if value.is_valid:
                    value.cast(column.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                raise UserError(
                    f"{where}: row {first_row + row}, column '{column.name}': expected {kind}, found {value.as_py()!r}"
                ) from None
        raise UserError(f"{where}: column '{column.name}': expected {kind}, found {values.type}") from None


def check_key(table: pa.Table, schema: TableSchema, where: str) -> None:
    """Raise UserError naming the first row whose key has been seen before."""
    key = [name for name in schema.key if name in table.column_names]
    codes = [table.column(name).combine_chunks().dictionary_encode(null_encoding="encode") for name in key]
    combined = np.zeros(table.num_rows, dtype=np.int64)
    for code in codes:
        combined = combined * len(code.dictionary) + code.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(combined, kind="stable")
    repeats = order[1:][combined[order[1:]] == combined[order[:-1]]]
    if len(repeats):
        row = int(repeats.min())
        first = int(np.flatnonzero(combined == combined[row])[0])
        shown = ", ".join(f"{name}={table.column(name)[row].as_py()!r}" for name in key)
        raise UserError(
            f"{where}: row {row + 1} repeats row {first + 1} ({shown}); expected one row per {' x '.join(key)}"
        )


def iterate_parquet(path: Path, columns: list[str] | None = None, rows: int = 65_536) -> Iterator[pa.Table]:
    """Batches of one of our own Parquet files, without holding it all in memory."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=rows, columns=columns):
            yield pa.Table.from_batches([batch])
