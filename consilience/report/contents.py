"""What a run folder holds, read for the report. Every table may be missing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from consilience.errors import UserError, first_line
from consilience.runs import read_manifest, read_summary
from consilience.table_schema import TableSchema, column_names, conform
from consilience.tables import (
    AGREEMENT,
    ALIGNMENT,
    ANNOTATIONS,
    ANNOTATORS,
    CALIBRATION,
    CONSENSUS,
    CONTESTED,
    DILEMMAS,
    DRIFT,
    FAMILIES,
    GROUPS,
    INFLUENCE,
    NOISE,
    REJECTED,
    RELIABILITY,
)
from consilience.theories import THEORY_NAMES

SYNTHETIC = "synthetic"
POOLED = "all"
_NOT_SHOWN = ("fingerprint", "answer_mass")
_MOST_TASKS = 1_000_000


@dataclass(frozen=True)
class RunContents:
    """A run folder: its manifest, its headline figures and its small tables; None where there is no such table.

    Rows are ordered as `annotators` lists them (synthetic controls last), theories as `THEORY_NAMES`, 'all' last.

    Attributes:
        consensus: of a table of over a million rows, about a million, in row groups evenly spaced.
        tasks: rows of the table `consensus`, 0 where there is none.
    """

    folder: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    annotators: pd.DataFrame | None
    consensus: pd.DataFrame | None
    tasks: int
    reliability: pd.DataFrame | None
    alignment: pd.DataFrame | None
    influence: pd.DataFrame | None
    rejected: pd.DataFrame | None
    agreement: pd.DataFrame | None
    families: pd.DataFrame | None
    groups: pd.DataFrame | None
    contested: pd.DataFrame | None
    noise: pd.DataFrame | None
    drift: pd.DataFrame | None
    calibration: pd.DataFrame | None

    @property
    def controls(self) -> list[str]:
        """Names of the synthetic annotators."""
        if self.annotators is None:
            return []
        return self.annotators.loc[self.annotators["kind"] == SYNTHETIC, "annotator"].tolist()


@dataclass(frozen=True)
class Disputed:
    """A dilemma on which annotators differ widely. Missing scores are absent from `scores`.

    Attributes:
        disagreement: mean over theories.
        by_theory: consensus, disagreement and number of annotators; one row per theory.
        scores: columns annotator, theory, score (NaN = missing) and status (None where unknown); may be empty.
    """

    item_id: str
    text: str | None
    source: str | None
    disagreement: float
    by_theory: pd.DataFrame
    scores: pd.DataFrame


def read_contents(folder: Path) -> RunContents:
    """Read a run folder.

    Raises:
        UserError: `folder` is not a run folder, or one of its files is not what its name says.
    """
    annotators = _read(folder, ANNOTATORS)
    if annotators is not None:
        annotators = annotators.sort_values("kind", key=lambda kind: kind == SYNTHETIC, kind="stable")
    order = [] if annotators is None else annotators["annotator"].tolist()

    def read(schema: TableSchema) -> pd.DataFrame | None:
        frame = _read(folder, schema)
        return None if frame is None else _ordered(frame, order)

    return RunContents(
        folder=folder,
        manifest=read_manifest(folder),
        summary=read_summary(folder),
        annotators=annotators,
        consensus=_read(folder, CONSENSUS, most=_MOST_TASKS),
        tasks=_count(folder, CONSENSUS),
        reliability=read(RELIABILITY),
        alignment=read(ALIGNMENT),
        influence=read(INFLUENCE),
        rejected=_read(folder, REJECTED),
        agreement=_read(folder, AGREEMENT),
        families=read(FAMILIES),
        groups=_read(folder, GROUPS),
        contested=_read(folder, CONTESTED),
        noise=read(NOISE),
        drift=read(DRIFT),
        calibration=_read(folder, CALIBRATION),
    )


def theories_in(frame: pd.DataFrame) -> list[str]:
    """The theories a table speaks of, in their usual order, 'all' last."""
    present = set(frame["theory"])
    return [name for name in (*THEORY_NAMES, POOLED) if name in present]


def texts_of(contents: RunContents, items: list[str]) -> dict[str, str]:
    """The texts of `items`, of those that the run has."""
    dilemmas = _read(contents.folder, DILEMMAS, items)
    return {} if dilemmas is None else dict(dilemmas[["item_id", "text"]].to_numpy())


def most_disputed(contents: RunContents, count: int) -> list[Disputed]:
    """The `count` dilemmas with the highest disagreement, most disputed first.

    Reads from `dilemmas` and `annotations` only the rows of these items.
    """
    if contents.consensus is None:
        return []
    means = contents.consensus.groupby("item_id")["disagreement"].mean().dropna().reset_index()
    top = means.sort_values(["disagreement", "item_id"], ascending=[False, True]).head(count)
    items = top["item_id"].tolist()
    consensus = contents.consensus[contents.consensus["item_id"].isin(items)]
    dilemmas = _read(contents.folder, DILEMMAS, items)
    annotations = _read(contents.folder, ANNOTATIONS, items)
    if annotations is not None and contents.annotators is not None:
        annotations = _ordered(annotations, contents.annotators["annotator"].tolist())
    nothing = pd.DataFrame(columns=["item_id", "annotator", "theory", "score", "status"])
    scores = nothing if annotations is None else annotations
    if "status" not in scores:
        scores = scores.assign(status=None)
    if dilemmas is None:
        dilemmas = pd.DataFrame(columns=["item_id", "text"])
    described = {row["item_id"]: row for row in dilemmas.to_dict("records")}
    return [
        Disputed(
            item_id=item,
            text=described.get(item, {}).get("text"),
            source=_or_none(described.get(item, {}).get("source")),
            disagreement=disagreement,
            by_theory=consensus[consensus["item_id"] == item].set_index("theory"),
            scores=scores[scores["item_id"] == item],
        )
        for item, disagreement in zip(items, top["disagreement"], strict=True)
    ]


def _or_none(value: Any) -> Any:
    return None if pd.isna(value) else value


def _ordered(frame: pd.DataFrame, annotators: list[str]) -> pd.DataFrame:
    position = {name: i for i, name in enumerate([*annotators, *sorted(set(frame["annotator"]) - set(annotators))])}
    keys = [frame["annotator"].map(position)]
    if "theory" in frame:
        keys.append(frame["theory"].map({name: i for i, name in enumerate((*THEORY_NAMES, POOLED))}))
    return frame.iloc[np.lexsort(keys[::-1])].reset_index(drop=True)


def _read(
    folder: Path, schema: TableSchema, items: list[str] | None = None, most: int | None = None
) -> pd.DataFrame | None:
    """A table of the folder (one file, or a folder of parts); None if absent or empty.

    Of it only `items` if given, and about `most` rows.
    """
    if (path := _find(folder, schema)) is None:
        return None
    try:
        dataset = ds.dataset(path, format="parquet")
        if most is not None and dataset.count_rows() > most:
            dataset = _thinned(dataset, most)
        columns = [name for name in column_names(schema) if name in dataset.schema.names and name not in _NOT_SHOWN]
        table = dataset.to_table(columns, filter=None if items is None else pc.field("item_id").isin(items))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {first_line(error)}") from None
    if table.num_rows == 0:
        return None
    return conform(table, schema, str(path)).to_pandas()


def _find(folder: Path, schema: TableSchema) -> Path | None:
    return next((path for path in (folder / f"{schema.name}.parquet", folder / schema.name) if path.exists()), None)


def _count(folder: Path, schema: TableSchema) -> int:
    """Rows of a table that can be read; 0 if it is absent."""
    path = _find(folder, schema)
    return 0 if path is None else ds.dataset(path, format="parquet").count_rows()


def _thinned(dataset: ds.FileSystemDataset, rows: int) -> ds.FileSystemDataset:
    """Row groups of `dataset`, evenly spaced, of about `rows` rows in all."""
    groups = [group for file in dataset.get_fragments() for group in file.split_by_row_group()]
    count = max(1, round(len(groups) * rows / dataset.count_rows()))
    chosen = np.linspace(0, len(groups) - 1, count).astype(int)
    return ds.FileSystemDataset([groups[k] for k in chosen], dataset.schema, dataset.format)
