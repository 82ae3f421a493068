"""The result of a run as a compact table for the terminal."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consilience.report.contents import POOLED, SYNTHETIC, RunContents, read_contents, theories_in
from consilience.report.text import (
    DASH,
    caveat,
    control_effects,
    fit_to_people,
    headline,
    is_missing,
    model_name,
    number,
)
from consilience.table_schema import iterate_parquet
from consilience.theories import THEORY_NAMES

WIDTH = 100
_FLAG = "*"


def print_result(folder: Path, console: Console) -> None:
    """Print a run's annotators, headline figures, caveat and where its report is, in at most 100 columns.

    Raises:
        UserError: `folder` is not a run folder, or a file in it is malformed.
    """
    contents = read_contents(folder)
    if contents.alignment is not None or contents.reliability is not None:
        _print(console, _annotator_table(contents))
    for figure in headline(contents):
        meaning = f"  ({figure.meaning})" if figure.meaning else ""
        _print(console, Text.assemble(f"{figure.label:<22}", (figure.value, "bold"), (meaning, "dim")))
    for method, fit in fit_to_people(contents).items():
        fits = f"r {number(fit.get('r'))}, MAE {number(fit.get('mae'))}, cross-entropy {number(fit.get('ce'))}"
        _print(console, Text.assemble(f"{method:<22}", (fits, "bold"), ("  (against people's shares)", "dim")))
    for line in (*control_effects(contents), *contents.manifest.get("notes", ()), *_licences(contents)):
        _print(console, Text(line))
    _print(console, Text(caveat(contents), style="yellow"))
    console.print(Text.assemble("report: ", (str(folder / "report.html"), "bold")), soft_wrap=True)


def print_annotations(folder: Path, console: Console) -> None:
    """Print the mean score of every annotator under every theory, what is missing, and where the table is."""
    path = folder / "annotations.parquet"
    sums: dict[tuple[str, str], float] = defaultdict(float)
    scored: Counter[tuple[str, str]] = Counter()
    missing: Counter[str] = Counter()
    for batch in iterate_parquet(path, ["annotator", "theory", "score"]):
        found = batch.group_by(["annotator", "theory"]).aggregate(
            [("score", "sum"), ("score", "count"), ("score", "count", pc.CountOptions(mode="only_null"))]
        )
        for annotator, theory, total, count, nulls in zip(*(c.to_pylist() for c in found.columns), strict=True):
            sums[annotator, theory] += total or 0.0
            scored[annotator, theory] += count
            missing[annotator] += nulls
    theories = [name for name in THEORY_NAMES if any(theory == name for _, theory in scored)]
    caption = f"mean score, 0 wrong to 1 acceptable, under {', '.join(theories)}"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("annotator", max_width=40, overflow="fold")
    for heading in (*(name[:4] for name in theories), "missing"):
        table.add_column(heading, justify="right", no_wrap=True)
    for annotator in missing:
        cells = [(annotator, theory) for theory in theories]
        means = [number(sums[cell] / scored[cell]) if scored[cell] else DASH for cell in cells]
        table.add_row(Text(annotator), *means, f"{missing[annotator]:,}")
    _print(console, table)
    _print(console, Text(caveat(read_contents(folder)), style="yellow"))
    console.print(Text.assemble("judgements: ", (str(path), "bold")), soft_wrap=True)


def _print(console: Console, line: Table | Text) -> None:
    console.print(line, width=WIDTH, soft_wrap=False, no_wrap=False, overflow="fold")


def _annotator_table(contents: RunContents) -> Table:
    alignment = contents.alignment
    theories = [] if alignment is None else [name for name in theories_in(alignment) if name != POOLED]
    caption = f"F1 against the consensus under {', '.join(theories)}; {_FLAG} flagged" if theories else None
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("annotator", max_width=46 if contents.annotators is None else 20, overflow="fold")
    if contents.annotators is not None:
        table.add_column("model", max_width=26, overflow="fold")
    for heading in ("mu1", "mu0", "inform.", *(name[:4] for name in theories)):
        table.add_column(heading, justify="right", no_wrap=True)
    pooled = _rows_of(contents.reliability, POOLED)
    f1 = {name: _rows_of(alignment, name) for name in theories}
    for annotator in _annotators_of(contents):
        parameters = pooled.get(annotator, {})
        cells = [Text(number(parameters.get(name))) for name in ("mu1", "mu0", "informativeness")]
        cells += [_f1_cell(f1[name].get(annotator, {})) for name in theories]
        models = [] if contents.annotators is None else [_model(contents.annotators, annotator)]
        table.add_row(Text(annotator), *models, *cells)
    return table


def _rows_of(frame: pd.DataFrame | None, theory: str) -> dict[str, Any]:
    if frame is None:
        return {}
    return {row["annotator"]: row for row in frame[frame["theory"] == theory].to_dict("records")}


def _f1_cell(row: dict[str, Any]) -> Text:
    flagged = bool(row.get("flagged"))
    return Text(f"{number(row.get('f1'))}{_FLAG if flagged else ' '}", style="bold yellow" if flagged else "")


def _annotators_of(contents: RunContents) -> list[str]:
    tables = (contents.annotators, contents.alignment, contents.reliability)
    return list(dict.fromkeys(name for table in tables if table is not None for name in table["annotator"]))


def _model(annotators: pd.DataFrame, annotator: str) -> Text:
    rows = annotators[annotators["annotator"] == annotator].to_dict("records")
    return Text(_model_of(rows[0]) if rows else DASH)


def _model_of(row: dict[Any, Any]) -> str:
    return row["kind"] if row["kind"] == SYNTHETIC or is_missing(row["source"]) else model_name(row["source"])


def _licences(contents: RunContents) -> list[str]:
    """One line per model whose licence is known."""
    rows = [] if contents.annotators is None else contents.annotators.to_dict("records")
    known = {_model_of(row): row["licence"] for row in rows if not is_missing(row["licence"])}
    return [f"licence of {model}: {licence}" for model, licence in known.items()]
