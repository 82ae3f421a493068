"""Sections of the report about the pool: agreement and near-copies, groups, noise, drift."""

from typing import Any

import pandas as pd
from markupsafe import Markup

from consilience.consensus.groups import CONTESTED_Q
from consilience.report import plots
from consilience.report.contents import RunContents, texts_of
from consilience.report.text import is_missing

LARGEST_PLOT = 60
"""With more annotators than this, a figure with a row for each is left out; its table says the same."""

LARGEST_MAP = 20
"""With more annotators than this, the correlations are given as those of each annotator's nearest neighbour alone."""

CONTESTED_SHOWN = 8
CONTESTED_LIKELY = 0.5

Section = dict[str, Any] | None


def agreement(contents: RunContents) -> Section:
    """Error correlations as a map, and the families of near-copies."""
    frame, kin = contents.agreement, contents.families
    if frame is None or kin is None:
        return None
    names = kin["annotator"].tolist()
    matrix = frame.pivot(index="annotator", columns="other", values="error_correlation").loc[names, names]
    alt = "Heat map of the correlation between annotators' errors; see table."
    families: dict[str, list[str]] = {}
    for row in kin.dropna(subset=["family"]).itertuples():
        families.setdefault(str(row.family), []).append(str(row.annotator))
    return {
        "names": names,
        "matrix": matrix.to_dict("index"),
        "plot": Markup(plots.correlation(matrix, "errors", alt)) if len(names) <= LARGEST_MAP else None,
        "families": list(families.values()),
        "kin": kin.to_dict("records"),
        "figures": contents.summary,
    }


def groups(contents: RunContents) -> Section:
    """Each group's level, and the tasks on which the groups differ most surely."""
    frame, differences = contents.groups, contents.contested
    if frame is None:
        return None
    names = sorted(frame["group"].unique())
    likely = pd.DataFrame() if differences is None else differences[differences["q"] < CONTESTED_LIKELY]
    shown = likely.head(CONTESTED_SHOWN).to_dict("records")
    texts = texts_of(contents, [row["item_id"] for row in shown])
    values = frame.set_index(["item_id", "theory", "group"])["consensus"].to_dict()
    return {
        "names": names,
        "levels": [
            {
                "group": name,
                "tasks": len(part),
                "annotators": int(part["n_annotators"].max()),
                "mean": part["consensus"].mean(),
                "sd": part["sd"].mean(),
                "method": part["method"].iloc[0],
            }
            for name, part in frame.groupby("group")
        ],
        "contested": [
            {**row, "text": texts.get(row["item_id"]), "values": _values(values, row, names)} for row in shown
        ],
        "sure": 0 if differences is None else int((differences["q"] < CONTESTED_Q).sum()),
        "tasks": 0 if differences is None else len(differences),
    }


def noise(contents: RunContents) -> Section:
    """What a second measurement changes."""
    if contents.noise is None:
        return None
    return {"rows": contents.noise.to_dict("records"), "floor": contents.summary.get("noise_sd")}


def drift(contents: RunContents) -> Section:
    """Annotators against their past."""
    return None if contents.drift is None else {"rows": contents.drift.to_dict("records")}


def _values(values: dict[Any, float], row: dict[Any, Any], names: list[str]) -> dict[str, float | None]:
    found = {name: values.get((row["item_id"], row["theory"], name)) for name in names}
    return {name: None if is_missing(value) else value for name, value in found.items()}
