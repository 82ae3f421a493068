"""The page and the terminal tables of an evaluation of agents and aggregators."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consilience.report.environment import write_page
from consilience.report.text import number
from consilience.runs import read_manifest, read_summary
from consilience.table_schema import read_table
from consilience.tables import ANSWERS, QUESTIONS
from consilience.theories import VALUES
from consilience.values.answer_settings import BASE
from consilience.values.evaluation import BERTSCORE
from consilience.values.evaluation_summary import OVERLAPS
from consilience.values.evaluation_tables import EVALUATION, WIN_RATES
from consilience.values.examples import ALL
from consilience.values.profile import parse_profile
from consilience.values.split import TEST
from consilience.values.systems import FEW_SHOT, OTHER_REFERENCE, PROMPTED, aggregator_name, base_name

EXAMPLES = 3
CAVEAT = (
    "These figures say how answers compare with a classifier's opinion and with what people wrote, not what is right. "
    "Models as small as those of the demo are fluent and morally unreliable: they prove the machinery, not the morals."
)
MEASURES = {
    BERTSCORE: "BERTScore F1",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "rouge_lsum": "ROUGE-Lsum",
    "reward": "reward",
    "reward_forced": "reward (forced)",
    "judge": "independent judge",
    "judge_forced": "independent judge (forced)",
    "words": "length, words",
    "repetition": "repeated trigrams, share",
    "kl": "distance from the base, nats",
}
SYSTEMS = {
    aggregator_name("dynamic"): "aggregator, dynamic context",
    aggregator_name("full"): "aggregator, full context",
    base_name("dynamic"): "base, dynamic context",
    base_name("full"): "base, full context",
    PROMPTED: "base told to merge",
    FEW_SHOT: "base, few-shot",
    BASE: "base alone",
    **{value.name: f"agent for {value.name}" for value in VALUES},
    OTHER_REFERENCE: "another question's reference",
}
PROFILES = {ALL: "all questions", "human": "profiles from people", "predicted": "predicted profiles"}
Rows = list[dict[str, Any]]
_ENDS = ("mean_low", "mean", "mean_high")


def write_report(folder: Path) -> Path:
    """Render `folder`/report.html from a run of evaluate; returns its path. It loads nothing and runs no script.

    Raises:
        UserError: not such a run, or the page cannot be written.
    """
    tables = _tables(folder)
    return write_page(
        folder,
        "value_evaluation.html.jinja",
        caveat=CAVEAT,
        tables=tables,
        slices=_slices(tables),
        overlaps=OVERLAPS,
        overlap={
            key: {row["measure"]: row for row in rows} for key, rows in _grouped(tables, "overlap", "system").items()
        },
        wins={
            key: {row["other"]: row for row in rows} for key, rows in _grouped(tables, "win_rates", "system").items()
        },
        marks=_marks(tables),
        compared=_compared(tables),
        measures=MEASURES,
        systems=SYSTEMS,
        profiles=PROFILES,
        examples=_examples(folder),
    )


def print_evaluation(folder: Path, console: Console) -> None:
    """Print all tables for all questions together, the notes, the caveat, and where the report is."""
    tables = {name: [row for row in rows if row.get("profiles", ALL) == ALL] for name, rows in _tables(folder).items()}
    manifest = read_manifest(folder)
    summary = read_summary(folder)
    tuned = [system for system in _compared(tables) if system.startswith("aggregator_")]
    for table in (
        _agents(tables["agent_gains"]),
        _nearness(_grouped(tables, "overlap", "system"), summary["bertscore_encoder"]),
        _wins(tables["win_rates"], tuned, _compared(tables)),
        _flips(tables["profile_flips"]),
        _bound(tables["reward_bound"]),
    ):
        console.print(table)
    for line in manifest.get("notes", ()):
        console.print(line, markup=False)
    console.print(Text(CAVEAT, style="yellow"))
    console.print(Text.assemble("report: ", (str(folder / "report.html"), "bold")), soft_wrap=True)


def _agents(rows: Rows) -> Table:
    table = _table("Base and agents on held-out questions", ("value", "measure"), ("base", "agent", "gain", "n"))
    for row in rows:
        figures = (_figure(row["base"]), _figure(row["agent"]), _interval(row, "gain"), number(row["n"]))
        table.add_row(row["value"], MEASURES[row["measure"]], *figures)
    return table


def _nearness(by_system: dict[tuple[str, str], Rows], encoder: str) -> Table:
    title = f"Nearness to the reference answers (BERTScore by {encoder})"
    table = _table(title, ("system",), [MEASURES[name] for name in OVERLAPS])
    for (_, system), rows in by_system.items():
        found = {row["measure"]: row for row in rows}
        others = (_figure(found[name]["mean"]) for name in OVERLAPS[1:])
        table.add_row(SYSTEMS[system], _interval(found[BERTSCORE], "mean"), *others)
    return table


def _wins(rows: Rows, tuned: Sequence[str], systems: Sequence[str]) -> Table:
    table = _table("Win rates by BERTScore, ties counted half", ("over",), [SYSTEMS[system] for system in tuned])
    rates = {(row["system"], row["other"]): row for row in rows}
    for other in systems:
        cells = (_interval(rates[s, other], "win_rate") if s != other else number(None) for s in tuned)
        table.add_row(SYSTEMS[other], *cells)
    return table


def _flips(rows: Rows) -> Table:
    title = "Asking an aggregator for a value, and the value's reward"
    table = _table(title, ("context", "value", "measure"), ("without it", "asked for", "shift", "n"))
    for row in rows:
        figures = (_figure(row["without"]), _figure(row["asked"]), _interval(row, "shift"), number(row["n"]))
        table.add_row(row["context"], row["value"], MEASURES[row["measure"]], *figures)
    return table


def _bound(rows: Rows) -> Table:
    title = "Theorem 1 as a check, where the value is asked for"
    table = _table(title, ("context", "value", "measure"), ("aggregator", "least of agents", "margin", "n", "verdict"))
    for row in rows:
        least = f"{_figure(row['least'])} ({row['least_agent'] or number(None)})"
        figures = (_figure(row["aggregator"]), least, _interval(row, "margin"), number(row["n"]), row["verdict"])
        table.add_row(row["context"], row["value"], MEASURES[row["measure"]], *figures)
    return table


def _tables(folder: Path) -> dict[str, Rows]:
    return {schema.name: read_table(folder / f"{schema.name}.parquet", schema).to_pylist() for schema in EVALUATION}


def _slices(tables: dict[str, Rows]) -> list[str]:
    return list(dict.fromkeys(row["profiles"] for row in tables["overlap"]))


def _compared(tables: dict[str, Rows]) -> list[str]:
    return list(dict.fromkeys(row["system"] for row in tables[WIN_RATES.name]))


def _grouped(tables: dict[str, Rows], name: str, column: str) -> dict[tuple[str, str], Rows]:
    """Rows by slice and `column`, in order."""
    found: dict[tuple[str, str], Rows] = {}
    for row in tables[name]:
        found.setdefault((row["profiles"], row[column]), []).append(row)
    return found


def _marks(tables: dict[str, Rows]) -> dict[tuple[str, str], dict[str, float]]:
    """By slice and system, where a BERTScore and the ends of its interval lie between the least and greatest end, %."""
    rows = [row for row in tables["overlap"] if row["measure"] == BERTSCORE and row["mean_low"] is not None]
    ends = [row[end] for row in rows for end in ("mean_low", "mean_high")]
    least, width = (min(ends), max(ends) - min(ends)) if ends else (0.0, 0.0)
    return {
        (row["profiles"], row["system"]): {end: 100 * (row[end] - least) / (width or 1) for end in _ENDS}
        for row in rows
    }


def _examples(folder: Path) -> list[dict[str, Any]]:
    """The first test questions with their profiles in words and all systems' answers."""
    questions = read_table(folder / "questions.parquet", QUESTIONS).to_pylist()
    chosen = [row for row in questions if row["split"] == TEST][:EXAMPLES]
    answers = read_table(folder / "answers.parquet", ANSWERS).to_pylist()
    said = {(row["question_id"], row["system"]): row["text"] for row in answers}
    return [
        {
            "text": row["text"],
            "profile": _in_words(row),
            "reference": row.get("reference"),
            "answers": {
                label: said[row["question_id"], system]
                for system, label in SYSTEMS.items()
                if (row["question_id"], system) in said
            },
        }
        for row in chosen
    ]


def _in_words(row: dict[str, Any]) -> str:
    profile = parse_profile({value.name: row[value.name] for value in VALUES}, row["question_id"])
    return ", ".join(f"{value.name} {profile.degree(value)}" for value in profile.present) or "no value asked for"


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _figure(value: float | None) -> str:
    return number(value, 3)


def _interval(row: dict[str, Any], name: str) -> str:
    return f"{_figure(row[name])} [{_figure(row[f'{name}_low'])}, {_figure(row[f'{name}_high'])}]"
