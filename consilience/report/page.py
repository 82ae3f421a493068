"""The report page: one self-contained HTML file that renders what a run folder holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from consilience.files import write_text
from consilience.report import plots, pool, realign
from consilience.report.contents import POOLED, Disputed, RunContents, most_disputed, read_contents, theories_in
from consilience.report.environment import environment
from consilience.report.pool import LARGEST_PLOT, Section
from consilience.report.text import (
    caveat,
    control_effects,
    fit_to_people,
    headline,
    is_missing,
    method_name,
    model_name,
    number,
)

DISPUTED = 6
REJECTED_SHOWN = 50


def write_report(folder: Path) -> Path:
    """Render `folder`/report.html from the manifest, summary and tables of a run folder; returns its path.

    A section whose table the folder lacks is left out. The page loads nothing and runs no script.

    Raises:
        UserError: `folder` is not a run folder, a file in it is malformed, or the page cannot be written.
    """
    contents = read_contents(folder)
    sections = {name: section for name, build in _SECTIONS.items() if (section := build(contents)) is not None}
    page = _template().render(
        run=contents,
        sections=sections,
        title=_title(contents),
        caveat=caveat(contents),
        headline=headline(contents),
        controls=contents.controls,
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _template() -> jinja2.Template:
    templates = environment()
    templates.filters.update(theory=_theory_label, tint=_tint)
    return templates.get_template("page.html.jinja")


def _title(contents: RunContents) -> str:
    people, items = contents.summary.get("annotators"), contents.summary.get("items")
    if is_missing(people) or is_missing(items):
        return f"Run of {contents.manifest['job']}"
    return f"What {number(people)} annotators say about {number(items)} dilemmas"


def _theory_label(name: str) -> str:
    return "all theories" if name == POOLED else name


def _tint(score: float) -> Markup:
    """Class and strength (0..100 %) of a cell's shade: blue above 0.5, orange below, none at 0.5 or where missing."""
    if is_missing(score):
        return Markup("")
    side = "high" if score > 0.5 else "low"
    return Markup(f'class="shade {side}" style="--shade:{abs(score - 0.5) * 200:.0f}%"')


def _against_people(contents: RunContents) -> Section:
    methods = fit_to_people(contents)
    if not methods:
        return None
    curves = contents.calibration
    return {
        "methods": methods,
        "plot": None if curves is None else Markup(plots.calibration(curves)),
        "curves": [] if curves is None else curves.assign(method=curves["method"].map(method_name)).to_dict("records"),
    }


def _consensus(contents: RunContents) -> Section:
    frame = contents.consensus
    if frame is None:
        return None
    values = {name: frame.loc[frame["theory"] == name, "consensus"].dropna() for name in theories_in(frame)}
    tallest = max(1, *(plots.histogram_counts(column.to_numpy())[0].max() for column in values.values()))
    return {
        "theories": [
            {
                "name": name,
                "plot": Markup(plots.histogram(column.to_numpy(), name, tallest)),
                "count": len(column),
                "mean": column.mean(),
                "acceptable": (column > 0.5).mean(),
                "undecided": column.between(0.05, 0.95).mean(),
            }
            for name, column in values.items()
        ],
        "is_mean": contents.summary.get("stopped") == "two_annotators",
        "shown": len(frame),
        "tasks": contents.tasks,
    }


def _between_theories(contents: RunContents) -> Section:
    frame = contents.consensus
    if frame is None or len(theories := theories_in(frame)) < 2:
        return None
    matrix = frame.pivot(index="item_id", columns="theory", values="consensus")[theories].corr()
    alt = "Heat map of the correlation between the theories' consensus values; see table."
    plot = Markup(plots.correlation(matrix, "theories", alt))
    return {"theories": theories, "matrix": matrix.to_dict("index"), "plot": plot}


def _reliability(contents: RunContents) -> Section:
    frame = contents.reliability
    if frame is None:
        return None
    parts = {name: frame[frame["theory"] == name] for name in theories_in(frame)}
    return {
        "rows": frame.to_dict("records"),
        "pooled": list(parts) == [POOLED],
        "intervals": "ci_low" in frame and bool(frame["ci_low"].notna().any()),
        "plots": {
            name: Markup(plots.reliability(rows, name)) for name, rows in parts.items() if len(rows) <= LARGEST_PLOT
        },
    }


def _alignment(contents: RunContents) -> Section:
    frame = contents.alignment
    if frame is None:
        return None
    cells: dict[str, dict[str, Any]] = {}
    for row in frame.to_dict("records"):
        cells.setdefault(row["annotator"], {})[row["theory"]] = row
    return {
        "theories": theories_in(frame),
        "cells": cells,
        "flagged": frame[frame["flagged"]].to_dict("records"),
        "tau": contents.manifest.get("config", {}).get("tau"),
    }


def _em_and_mean(contents: RunContents) -> Section:
    frame = contents.alignment
    if frame is None or "f1_mean" not in frame or frame["f1_mean"].isna().all():
        return None
    rows = _per_annotator(frame, ["f1", "f1_mean"]).reset_index()
    rows["difference"] = rows["f1"] - rows["f1_mean"]
    plot = Markup(plots.f1_pairs(rows)) if len(rows) <= LARGEST_PLOT else None
    return {
        "rows": rows.to_dict("records"),
        "averaged": len(theories_in(frame)) > 1 and POOLED not in set(frame["theory"]),
        "plot": plot,
    }


def _per_annotator(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """One row per annotator, indexed by it: the pooled row where there is one, else the mean over theories."""
    pooled = frame[frame["theory"] == POOLED].set_index("annotator")[columns]
    means = frame[frame["theory"] != POOLED].groupby("annotator", sort=False)[columns].mean()
    order = frame["annotator"].unique()
    return pooled.reindex(order).combine_first(means).reindex(order)


def _influence(contents: RunContents) -> Section:
    frame = contents.influence
    if frame is None:
        return None
    plot = Markup(plots.influence(frame)) if len(frame) <= LARGEST_PLOT else None
    return {"rows": frame.to_dict("records"), "effects": control_effects(contents), "plot": plot}


def _disputed(contents: RunContents) -> Section:
    found = most_disputed(contents, DISPUTED)
    return {"dilemmas": [_dispute(dilemma) for dilemma in found]} if found else None


def _dispute(dilemma: Disputed) -> dict[str, Any]:
    scores: dict[str, dict[str, Any]] = {}
    for row in dilemma.scores.to_dict("records"):
        scores.setdefault(row["annotator"], {})[row["theory"]] = row
    return {
        "item_id": dilemma.item_id,
        "text": dilemma.text,
        "source": dilemma.source,
        "disagreement": dilemma.disagreement,
        "theories": theories_in(dilemma.by_theory.reset_index()),
        "by_theory": dilemma.by_theory.to_dict("index"),
        "scores": scores,
    }


def _annotators(contents: RunContents) -> Section:
    frame = contents.annotators
    if frame is None:
        return None
    models = frame[frame["source"].notna() & ~frame["annotator"].isin(contents.controls)]
    licences: dict[str, list[str]] = {}
    for source, licence in models.drop_duplicates("source")[["source", "licence"]].itertuples(index=False):
        licences.setdefault("not stated" if pd.isna(licence) else licence, []).append(model_name(source))
    return {"rows": frame.to_dict("records"), "licences": licences}


def _rejected(contents: RunContents) -> Section:
    frame = contents.rejected
    if frame is None:
        return None
    return {"count": len(frame), "rows": frame.head(REJECTED_SHOWN).to_dict("records")}


def _provenance(contents: RunContents) -> Section:
    manifest, annotators = contents.manifest, contents.annotators
    known = pd.DataFrame() if annotators is None else annotators.dropna(subset=["source", "digest"])
    return {
        "config": yaml.safe_dump(manifest.get("config", {}), sort_keys=False, allow_unicode=True, width=100),
        "stages": manifest.get("stages", {}),
        "packages": manifest.get("packages", {}),
        "inputs": manifest.get("inputs", {}),
        "models": {row["source"]: row["digest"] for row in known.to_dict("records")},
    }


_SECTIONS: dict[str, Callable[[RunContents], Section]] = {
    "against_people": _against_people,
    "consensus": _consensus,
    "between_theories": _between_theories,
    "reliability": _reliability,
    "alignment": _alignment,
    "em_and_mean": _em_and_mean,
    "influence": _influence,
    "agreement": pool.agreement,
    "groups": pool.groups,
    "noise": pool.noise,
    "drift": pool.drift,
    "realign": realign.realign,
    "disputed": _disputed,
    "annotators": _annotators,
    "rejected": _rejected,
    "provenance": _provenance,
}
