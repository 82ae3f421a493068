"""The pages of trained agents and of a trained aggregator."""

from pathlib import Path
from typing import Any

import pandas as pd

from consilience.report.environment import write_page
from consilience.report.plots import losses
from consilience.runs import read_manifest
from consilience.table_schema import read_table
from consilience.tables import AGENTS, ANSWERS, QUESTIONS
from consilience.values.question_data import describe_profiles

EXAMPLES = 4


def write_agents_report(folder: Path) -> Path:
    """Render `folder`/report.html from a run of train_agents; returns its path. It loads nothing and runs no script.

    Raises:
        UserError: not such a run, or the page cannot be written.
    """
    measures = read_table(folder / "agents.parquet", AGENTS).to_pylist()
    risen = sum(row["measure"] == "reward" and (row["gain_low"] or 0) > 0 for row in measures)
    return _write(
        folder, "agents.html.jinja", title="Moral agents", measures=measures, risen=risen, examples=_examples(folder)
    )


def write_aggregator_report(folder: Path) -> Path:
    """Render `folder`/report.html from a run of train_aggregator; else as `write_agents_report`."""
    history = read_manifest(folder)["history"]
    steps, validations = (
        [{"step": row["step"], "loss": row[key]} for row in history if key in row] for key in ("loss", "eval_loss")
    )
    plot = losses(pd.DataFrame(steps, columns=["step", "loss"]), pd.DataFrame(validations))
    return _write(folder, "aggregator.html.jinja", title="Aggregator", validations=validations, plot=plot)


def _write(folder: Path, template: str, **facts: Any) -> Path:
    return write_page(
        folder,
        template,
        profiles=describe_profiles(read_table(folder / "questions.parquet", QUESTIONS)),
        **facts,
    )


def _examples(folder: Path) -> list[dict[str, Any]]:
    """The first questions that were answered, each with what base and agents said."""
    questions = read_table(folder / "questions.parquet", QUESTIONS)
    texts = dict(zip(*(questions.column(name).to_pylist() for name in ("question_id", "text")), strict=True))
    said: dict[str, dict[str, str | None]] = {}
    for row in read_table(folder / "answers.parquet", ANSWERS).to_pylist():
        said.setdefault(row["question_id"], {})[row["system"]] = row["text"]
    return [{"text": texts[name], "answers": answers} for name, answers in list(said.items())[:EXAMPLES]]
