"""The page and the terminal table of a calibration: every system beside every other on the same held-out items."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consilience.report.environment import write_page
from consilience.report.plots import people_reliability
from consilience.report.text import number
from consilience.runs import read_manifest
from consilience.table_schema import read_table
from consilience.tables import CALIBRATE_METRICS, CALIBRATE_PREDICTIONS

SYSTEMS = {
    "prior": "prior",
    "majority": "majority",
    "bag_of_words": "bag of words",
    "encoder": "encoder, tuned",
    "before": "model, before",
    "after": "model, after",
    "people": "other people",
    "bound": "best achievable",
}
METRICS = {
    "ce": "Cross-entropy",
    "ce_calibrated": "CE at best temperature",
    "dm": "Dirichlet-multinomial",
    "dm_1": "the same at s = 1",
    "accuracy": "Accuracy",
    "f1_macro": "F1, macro",
    "ece": "ECE",
    "js": "JS",
    "tv": "Total variation",
}
_BINS = 10


def write_report(folder: Path) -> Path:
    """Render `folder`/report.html from a run of calibrate; returns its path. It loads nothing and runs no script.

    Raises:
        UserError: not such a run, or the page cannot be written.
    """
    curves = reliability_curves(read_table(folder / "calibrate_predictions.parquet", CALIBRATE_PREDICTIONS).to_pandas())
    return write_page(
        folder,
        "calibrate.html.jinja",
        figures=_figures(folder),
        systems=SYSTEMS,
        metrics=METRICS,
        plot=people_reliability(curves),
        curves=curves.to_dict("records"),
    )


def reliability_curves(predictions: pd.DataFrame) -> pd.DataFrame:
    """`system, p, people, n`: means in ten bins of the models' probabilities of every option but the last.

    The last is what the others leave; of two options one says all.
    """
    last = predictions["option"].drop_duplicates().iloc[-1]
    chosen = predictions[
        predictions["system"].isin(["before", "after", "encoder"]) & (predictions["option"] != last)
    ].copy()
    chosen["bin"] = np.minimum((chosen["p"] * _BINS).astype(int), _BINS - 1)
    curves = chosen.groupby(["system", "bin"]).agg(p=("p", "mean"), people=("people", "mean"), n=("p", "size"))
    return curves.reset_index().drop(columns="bin")


def print_calibration(folder: Path, console: Console) -> None:
    """Print the headline figures of every system, and where the report is."""
    manifest, figures = read_manifest(folder), _figures(folder)
    table = Table(box=SIMPLE_HEAD, title="On the held-out items", title_justify="left", pad_edge=False)
    for column in ("system", "cross-entropy [95 %]", "Dirichlet-multinomial", "accuracy", "ECE", "gap closed"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for system, metrics in figures.items():
        ce, closed = metrics["ce"], manifest["gap_closed"].get(system)
        interval = "" if ce["value"] is None else f" [{number(ce['low'], 3)}, {number(ce['high'], 3)}]"
        table.add_row(
            SYSTEMS[system],
            f"{number(ce['value'], 3)}{interval}",
            number(metrics["dm"]["value"], 3),
            number(metrics["accuracy"]["value"], 3),
            number(metrics["ece"]["value"], 3),
            "" if closed is None else f"{100 * closed['value']:.0f} %",
        )
    console.print(table)
    console.print(Text.assemble("report: ", (str(folder / "report.html"), "bold")), soft_wrap=True)


def _figures(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of the metrics by system and metric."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in read_table(folder / "calibrate_metrics.parquet", CALIBRATE_METRICS).to_pylist():
        found.setdefault(row["system"], {})[row["metric"]] = row
    return found
