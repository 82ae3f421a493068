"""What a run folder holds, read for the report. Every table may be missing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from consilience.errors import UserError
from consilience.runs import read_manifest
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
    TableSchema,
    column_names,
    conform,
)
from consilience.theories import THEORY_NAMES

SYNTHETIC = "synthetic"
POOLED = "all"
_NOT_SHOWN = ("fingerprint", "answer_mass")


@dataclass(frozen=True)
class RunContents:
    """A run folder: its manifest, its headline figures and its small tables; None where there is no such table.

    Rows are ordered as `annotators` lists them (synthetic controls last), theories as `THEORY_NAMES`, 'all' last.
    """

    folder: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    annotators: pd.DataFrame | None
    consensus: pd.DataFrame | None
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
        summary=_read_summary(folder / "summary.json"),
        annotators=annotators,
        consensus=_read(folder, CONSENSUS),
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


def _read(folder: Path, schema: TableSchema, items: list[str] | None = None) -> pd.DataFrame | None:
    """A table of the folder (one file, or a folder of parts), of it only `items` if given; None if absent or empty."""
    path = next((p for p in (folder / f"{schema.name}.parquet", folder / schema.name) if p.exists()), None)
    if path is None:
        return None
    try:
        dataset = ds.dataset(path, format="parquet")
        columns = [name for name in column_names(schema) if name in dataset.schema.names and name not in _NOT_SHOWN]
        table = dataset.to_table(columns, filter=None if items is None else pc.field("item_id").isin(items))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    if table.num_rows == 0:
        return None
    return conform(table, schema, str(path)).to_pandas()


def _read_summary(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(summary, dict):
        raise UserError(f"{path}: expected an object of headline figures")
    return summary
