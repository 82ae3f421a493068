"""Figures of the report as inline SVG that takes its colours and its typeface from the page.

Matplotlib draws with the stand-in colours below; `_svg` replaces each by a CSS variable of the page, so that a figure
follows light and dark. The pair blue and orange stays apart for colour-blind readers, and shape or position always
says the same as colour.
"""

import io
import re
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from consilience.report.text import number

INK, MUTED, RULE, BLUE, ORANGE, PAPER = "#1d1f22", "#5c6471", "#d9dce1", "#0f62ad", "#b5520e", "#fdfdfb"
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", BLUE: "--blue", ORANGE: "--orange", PAPER: "--paper"}
_LONGEST_NAME = 26
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "consilience",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": True,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.color": RULE,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "grid.color": RULE,
    "legend.frameon": False,
    "legend.handletextpad": 0.3,
    "legend.columnspacing": 1.2,
}


def histogram(values: npt.NDArray[np.float64], name: str, tallest: int) -> str:
    """Counts of `values` (in [0, 1]) in 20 bins; `tallest` is the top of the axis, shared between figures."""
    counts, edges = histogram_counts(values)
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(220, 150)
        below = edges[:-1] < 0.5
        width = edges[1] - edges[0]
        axes.bar(edges[:-1], counts, width * 0.86, align="edge", color=np.where(below, ORANGE, BLUE))
        axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set(xlim=(0, 1), ylim=(0, tallest * 1.05), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.tick_params(axis="y", labelcolor=MUTED)
        alt = (
            f"Histogram of the consensus by {name}: {counts[below].sum()} items below 0.5, "
            f"{counts[~below].sum()} above; {counts[0]} in the lowest of 20 bins, {counts[-1]} in the highest."
        )
        return _svg(figure, f"consensus-{name}", alt)


def histogram_counts(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Counts and edges of the 20 bins between 0 and 1 that `histogram` draws."""
    counts, edges = np.histogram(values, bins=20, range=(0, 1))
    return counts.astype(np.int64), edges


def reliability(rows: pd.DataFrame, name: str) -> str:
    """Mean score and one standard deviation either side in each class (truncated moments), per annotator."""
    with mpl.rc_context(_STYLE):
        figure, axes = _rows(rows["annotator"])
        at = np.arange(len(rows), dtype=float)
        classes = ((1, "acceptable", BLUE, "o", -0.15), (0, "unacceptable", ORANGE, "s", 0.15))
        for label, meaning, colour, marker, offset in classes:
            mean, sd = rows[f"mean{label}"], rows[f"sd{label}"]
            low, high = (mean - sd).clip(lower=0), (mean + sd).clip(upper=1)
            axes.hlines(at + offset, low, high, color=colour, linewidth=2, alpha=0.55)
            axes.plot(mean, at + offset, marker, color=colour, markersize=7, label=f"item {meaning}")
        _unit_axis(axes, "score given: mean ± standard deviation")
        _legend(figure)
        alt = "Mean score of each annotator for items that the consensus finds acceptable and unacceptable; see table."
        return _svg(figure, f"reliability-{name}", alt)


def correlation(matrix: pd.DataFrame, name: str, alt: str) -> str:
    """Heat map of a correlation matrix: blue positive, orange negative, the deeper the stronger."""
    size, values = len(matrix), matrix.to_numpy(dtype=np.float64)
    with mpl.rc_context({**_STYLE, "axes.spines.bottom": False, "xtick.major.size": 0}):
        figure, axes = _canvas(140 + 50 * size, 90 + 40 * size)
        for row in range(size):
            for column in range(size):
                value = float(values[row, column])
                shade = 0.0 if np.isnan(value) else 0.55 * abs(value)
                colour = BLUE if value >= 0 else ORANGE
                axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fc=colour, alpha=shade))
                axes.text(column, row, number(value), ha="center", va="center")
        names = [_shortened(str(column)) for column in matrix.columns]
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
        axes.set_xticks(range(size), names, rotation=25, ha="right", rotation_mode="anchor", color=INK)
        axes.set_yticks(range(size), names)
        return _svg(figure, name, alt)


def calibration(curves: pd.DataFrame) -> str:
    """Share of people against the consensus of three methods, in bins; the diagonal is perfect calibration.

    `curves` is the table `calibration`.
    """
    styles = {"mean": ("plain mean", ORANGE, "s"), "em": ("EM", MUTED, "^"), "calibrated": ("calibrated", BLUE, "o")}
    lines = [
        (*style, curves.loc[curves["method"] == method, ["consensus", "people"]]) for method, style in styles.items()
    ]
    alt = "Share of people against the consensus in ten bins by method; see table."
    return _people_against(lines, "consensus, mean of a bin", "calibration", alt)


def people_reliability(curves: pd.DataFrame) -> str:
    """People's mean share against the mean probability in bins, per system; the diagonal is perfect calibration.

    `curves` has `system, p, people`, for the systems before, after and encoder.
    """
    styles = {"before": ("before", ORANGE, "s"), "after": ("after", BLUE, "o"), "encoder": ("encoder", MUTED, "^")}
    lines = [(*style, curves.loc[curves["system"] == system, ["p", "people"]]) for system, style in styles.items()]
    alt = "Share of people against a model's probability in ten bins; see table."
    return _people_against(lines, "probability of an answer, mean of a bin", "people", alt)


def _people_against(lines: list[tuple[str, str, str, pd.DataFrame]], across: str, name: str, alt: str) -> str:
    """Lines (label, colour, marker, frame of x and share) beside the diagonal; one without points is left out."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(400, 360)
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
        for label, colour, marker, frame in lines:
            if len(frame):
                x, people = frame.sort_values(frame.columns[0]).to_numpy().T
                axes.plot(x, people, marker, color=colour, label=label, linestyle="-", linewidth=1)
        _unit_axis(axes, across)
        axes.set(ylim=(-0.02, 1.02), yticks=[0, 0.5, 1], yticklabels=["0", "0.5", "1"], ylabel="people's share")
        _legend(figure, 3)
        return _svg(figure, name, alt)


def losses(train: pd.DataFrame, validation: pd.DataFrame) -> str:
    """Loss per step of training and at each validation; both have `step, loss`, nats per token."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(460, 260)
        axes.plot(train["step"], train["loss"], color=MUTED, linewidth=1, label="training")
        axes.plot(validation["step"], validation["loss"], "o-", color=BLUE, linewidth=1.5, label="validation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="steps", ylabel="nats per token")
        axes.grid(axis="y")
        _legend(figure)
        return _svg(figure, "losses", "Loss in training and at each validation by step; see table.")


def f1_pairs(rows: pd.DataFrame) -> str:
    """F1 against the EM consensus and against the plain mean, joined by a line, per annotator."""
    with mpl.rc_context(_STYLE):
        figure, axes = _rows(rows["annotator"])
        at = np.arange(len(rows))
        axes.hlines(at, rows["f1"], rows["f1_mean"], color=MUTED, linewidth=1.5)
        axes.plot(rows["f1_mean"], at, "s", color=ORANGE, markersize=8, label="against the mean")
        axes.plot(rows["f1"], at, "o", color=BLUE, markersize=7, label="against the EM consensus")
        _unit_axis(axes, "F1")
        _legend(figure)
        alt = "F1 of each annotator against the EM consensus and against the plain mean; see table."
        return _svg(figure, "em-mean", alt)


def influence(rows: pd.DataFrame) -> str:
    """Share of labels that flip when an annotator joins the others, under the plain mean and under EM."""
    with mpl.rc_context(_STYLE):
        figure, axes = _rows(rows["annotator"])
        at = np.arange(len(rows))
        axes.barh(at - 0.17, 100 * rows["mean_flipped"], 0.28, color=ORANGE, label="plain mean")
        axes.barh(at + 0.17, 100 * rows["em_flipped"], 0.28, color=BLUE, label="EM consensus")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("labels that flip, %")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        _legend(figure)
        alt = "Share of labels that flip when each annotator is added to the others; see table."
        return _svg(figure, "influence", alt)


def token_map(points: list[dict[str, Any]], name: str) -> str:
    """Tokens in two dimensions: `label, kind, x, y` each, kind being original, optimised or related."""
    kinds = {"related": (MUTED, "."), "original": (BLUE, "o"), "optimised": (ORANGE, "s")}
    with mpl.rc_context({**_STYLE, "axes.spines.bottom": False}):
        figure, axes = _canvas(420, 320)
        for kind, (colour, marker) in kinds.items():
            chosen = [point for point in points if point["kind"] == kind]
            x, y = [point["x"] for point in chosen], [point["y"] for point in chosen]
            axes.plot(x, y, marker, color=colour, markersize=7, label=kind, linestyle="none")
            for point in chosen:
                axes.annotate(point["label"], (point["x"], point["y"]), (5, 3), textcoords="offset points")
        axes.set(xticks=[], yticks=[])
        axes.margins(0.15)
        figure.legend(loc="outside upper left", ncols=3, borderpad=0, borderaxespad=0.2)
        alt = "Map of the theory's tokens before and after realignment among related words; distances are in the table."
        return _svg(figure, name, alt)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` CSS pixels (one point of matplotlib's SVG is shown as one pixel)."""
    figure = Figure(figsize=(width / 72, height / 72))
    figure.set_layout_engine("constrained", w_pad=2 / 72, h_pad=2 / 72)
    return figure, figure.add_subplot()


def _rows(names: pd.Series) -> tuple[Figure, Axes]:
    """A figure with one row per annotator, the first at the top."""
    figure, axes = _canvas(460, 96 + 27 * len(names))
    axes.set_yticks(range(len(names)), [_shortened(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    return figure, axes


def _unit_axis(axes: Axes, label: str) -> None:
    axes.set(xlim=(-0.02, 1.02), xticks=[0, 0.25, 0.5, 0.75, 1], xticklabels=["0", "0.25", "0.5", "0.75", "1"])
    axes.set_xlabel(label)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _legend(figure: Figure, columns: int = 2) -> None:
    figure.legend(loc="outside upper left", ncols=columns, borderpad=0, borderaxespad=0.2)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an `<svg>` element with an alternative text, ids that begin with `name`, and the page's colours."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _adapt_tag(tag[0], name), svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def _adapt_tag(tag: str, name: str) -> str:
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    tag = tag.replace("font-family: 'DejaVu Sans'", "font-family: inherit").replace('pt"', '"')
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    tag = re.sub(r"""( id="|url\(#|href="#)""", rf"\g<1>{name}-", tag)
    return re.sub(r' xmlns(:xlink)?="[^"]*"', "", tag)
