"""Numbers as text, and the sentences that the page and the terminal share."""

import math
import re
from dataclasses import dataclass
from typing import Any

from consilience.report.contents import RunContents, theories_in

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
_STOPPED = {
    "converged": "stopped because it converged",
    "max_iterations": "stopped at the limit, before it converged",
    "two_annotators": "none: with two annotators the consensus is their mean",
}
_METHODS = {
    "mean": "plain mean",
    "weighted_mean": "weighted mean",
    "best_single": "best single annotator",
    "dawid_skene": "Dawid-Skene",
    "em": "EM consensus",
}
_SIZE = re.compile(r"(?<![A-Za-z0-9])(\d+(?:\.\d+)?)([MB])(?![A-Za-z0-9])", re.IGNORECASE)
DESCRIPTIVE = "Results are descriptive: they say what these models answer, not what is right."


@dataclass(frozen=True, slots=True)
class Figure:
    """A headline figure: its name, its value as text, and what it means."""

    label: str
    value: str
    meaning: str


def number(value: Any, digits: int = 2) -> str:
    """`value` with `digits` decimals and a true minus sign, whole numbers in groups of three; missing: a dash."""
    if is_missing(value):
        return DASH
    if isinstance(value, int) or (isinstance(value, float) and digits == 0):
        return f"{value:,.0f}".replace("-", MINUS)
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", MINUS)


def percent(value: Any, digits: int = 1) -> str:
    """A share as a percentage; missing: a dash."""
    return DASH if is_missing(value) else f"{number(100 * value, digits)}%"


def is_missing(value: Any) -> bool:
    """None and NaN are missing, and so is an empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def model_name(source: str) -> str:
    """The short name of a model source: the last part of its path or package, without the file's ending."""
    return re.split("[/:]", source.rstrip("/"))[-1].removesuffix(".gguf")


def small_models(contents: RunContents) -> list[str]:
    """Models with fewer than a billion parameters, as their names tell ('SmolLM2-135M')."""
    if contents.annotators is None:
        return []
    sources = contents.annotators["source"].dropna().unique()
    return [model_name(source) for source in sources if _parameters(source) < 1e9]


def caveat(contents: RunContents) -> str:
    """What nobody should read out of this run.

    Models below a billion parameters are told by their names; a true `small_models` in the manifest says the same of a
    pool whose names do not tell.
    """
    small = small_models(contents)
    if small:
        verb = "has" if len(small) == 1 else "have"
        return (
            f"{_listed(small)} {verb} fewer than a billion parameters: models of this size prove the machinery, "
            f"not the morals. {DESCRIPTIVE}"
        )
    if contents.manifest.get("small_models"):
        return f"Models of this size prove the machinery, not the morals. {DESCRIPTIVE}"
    return DESCRIPTIVE


def headline(contents: RunContents) -> list[Figure]:
    """The figures that a reader looks for first, those that the run has."""
    summary = contents.summary
    candidates = [
        ("items", "Items", 0, _judged_under(contents)),
        ("judgements", "Judgements", 0, "one per dilemma, theory and annotator"),
        ("missing", "Missing", 0, _missing_meaning(summary)),
        ("annotators", "Annotators", 0, _how_many_controls(contents)),
        ("effective_annotators", "Effective annotators", 1, "independent annotators that the pool is worth"),
        ("krippendorff_alpha", "Krippendorff's alpha", 2, _alpha_meaning(summary)),
        ("noise_sd", "Noise of a score", 3, "standard deviation when the same question is put again"),
        ("contested", "Contested", 0, "judgements on which the groups of annotators differ for sure"),
        ("drifted", "Drifted", 0, "annotators whose new scores are not those of their past"),
        ("iterations", "EM iterations", 0, _why_stopped(summary)),
    ]
    figures = [
        Figure(label, number(summary[key], digits), meaning)
        for key, label, digits, meaning in candidates
        if not is_missing(summary.get(key))
    ]
    if contents.alignment is not None:
        flagged = int(contents.alignment["flagged"].sum())
        figures.append(Figure("Flagged", number(flagged), "annotators far from the consensus, counted per theory"))
    return figures


def fit_to_people(contents: RunContents) -> dict[str, dict[str, float | None]]:
    """`r`, `mae` and `ce` against people's shares by method, where the summary has keys such as `r_mean`."""
    methods: dict[str, dict[str, float | None]] = {}
    for key, value in contents.summary.items():
        measure, _, method = key.partition("_")
        if measure in ("r", "mae", "ce") and method:
            methods.setdefault(method_name(method), {})[measure] = value
    return methods


def method_name(method: str) -> str:
    """The name of an aggregation method for people."""
    return _METHODS.get(method, method)


def control_effects(contents: RunContents) -> list[str]:
    """One sentence per synthetic annotator: what adding it to the others does to the mean and to the EM consensus."""
    if contents.influence is None:
        return []
    rows = contents.influence[contents.influence["annotator"].isin(contents.controls)]
    return [
        f"Adding {row['annotator']} to the others moves the plain mean by {number(row['mean_shift'], 3)} on average "
        f"and flips {percent(row['mean_flipped'])} of its labels; "
        f"it moves the EM consensus by {number(row['em_shift'], 3)} and flips {percent(row['em_flipped'])}."
        for row in rows.to_dict("records")
    ]


def _judged_under(contents: RunContents) -> str:
    count = 0 if contents.consensus is None else len(theories_in(contents.consensus))
    return f"dilemmas, under {count} {'theory' if count == 1 else 'theories'}" if count else "dilemmas"


def _how_many_controls(contents: RunContents) -> str:
    count = len(contents.controls)
    return f"{count} of them {'a synthetic control' if count == 1 else 'synthetic controls'}" if count else ""


def _missing_meaning(summary: dict[str, Any]) -> str:
    judgements = summary.get("judgements")
    share = f"{percent(summary['missing'] / judgements)} of the judgements; " if judgements else ""
    return f"{share}never counted as 0"


def _alpha_meaning(summary: dict[str, Any]) -> str:
    low, high = summary.get("krippendorff_alpha_low"), summary.get("krippendorff_alpha_high")
    interval = "" if is_missing(low) else f"95% interval {number(low)} to {number(high)}; "
    return f"{interval}1 = full agreement, 0 = no better than chance"


def _why_stopped(summary: dict[str, Any]) -> str:
    reason = str(summary.get("stopped") or "")
    return _STOPPED.get(reason, reason)


def _parameters(source: str) -> float:
    """The number of parameters that a model's name states, infinity if it states none."""
    found = _SIZE.search(model_name(source)) or _SIZE.search(source)
    return math.inf if found is None else float(found[1]) * {"M": 1e6, "B": 1e9}[found[2].upper()]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
