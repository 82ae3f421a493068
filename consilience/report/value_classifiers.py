"""The page and the terminal table of trained value classifiers."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consilience.report.environment import write_page
from consilience.report.text import number
from consilience.runs import read_manifest
from consilience.table_schema import read_table
from consilience.tables import VALUE_CLASSIFIERS, VALUE_METRICS
from consilience.values.examples import ALL

QUESTIONS = {
    "follows": "Does the text follow the value? (the reward)",
    "relevance": "Is the value at stake in the text?",
}
SYSTEMS = {"classifier": "classifier", "bag_of_words": "bag of words", "majority": "majority"}


def write_report(folder: Path) -> Path:
    """Render `folder`/report.html from a run of train_values; returns its path. It loads nothing and runs no script.

    Raises:
        UserError: not such a run, or the page cannot be written.
    """
    return write_page(
        folder,
        "value_classifiers.html.jinja",
        sections=_sections(folder, read_manifest(folder)),
        systems=SYSTEMS,
    )


def _sections(folder: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    metrics = read_table(folder / "value_metrics.parquet", VALUE_METRICS).to_pylist()
    classifiers = read_table(folder / "value_classifiers.parquet", VALUE_CLASSIFIERS).to_pylist()
    return [
        {
            "id": question,
            "title": title,
            "classifiers": chosen,
            "overall": [row for row in metrics if row["question"] == question and row["examples"] == ALL],
            "slices": [
                row
                for row in metrics
                if row["question"] == question and row["examples"] != ALL and row["system"] == "classifier"
            ],
            "splits": manifest[question]["splits"],
            "at_threshold": manifest[question]["at_threshold"],
            "correlations": manifest[question].get("correlations", {}),
        }
        for question, title in QUESTIONS.items()
        if (chosen := [row for row in classifiers if row["question"] == question])
    ]


def print_classifiers(folder: Path, console: Console) -> None:
    """Print AUC, baseline and verdict of every value, the notes, and where the report is."""
    manifest = read_manifest(folder)
    for section in _sections(folder, manifest):
        table = Table(box=SIMPLE_HEAD, title=section["title"], title_justify="left", pad_edge=False)
        for column in ("value", "AUC [95 %]", "bag of words", "accuracy", "ECE", "texts", "verdict"):
            table.add_column(column, justify="left" if column in ("value", "verdict") else "right")
        figures = {(row["value"], row["system"]): row for row in section["overall"]}
        for row in section["classifiers"]:
            own = figures.get((row["value"], "classifier"), {})
            words = figures.get((row["value"], "bag_of_words"), {})
            interval = (
                f" [{number(own.get('auc_low'))}, {number(own.get('auc_high'))}]"
                if own.get("auc_low") is not None
                else ""
            )
            table.add_row(
                row["value"],
                f"{number(own.get('auc'), 3)}{interval}",
                number(words.get("auc"), 3),
                number(own.get("accuracy"), 3),
                number(own.get("ece"), 3),
                number(own.get("n")),
                row["verdict"],
            )
        console.print(table)
    for note in manifest.get("notes", ()):
        console.print(note, markup=False)
    console.print(Text.assemble("report: ", (str(folder / "report.html"), "bold")), soft_wrap=True)
