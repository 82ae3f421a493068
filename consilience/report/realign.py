"""The report's section on realignment: what was gained, what it cost, and what the tokens have become."""

import json
from typing import Any

from markupsafe import Markup

from consilience.report import plots
from consilience.report.contents import RunContents
from consilience.report.pool import Section
from consilience.table_schema import read_table
from consilience.tables import REALIGNED_F1, REALIGNMENT

ARMS = {"raw": "raw model", "head": "head alone", "tokens": "head and tokens", "lambda0": "the same, lambda = 0"}


def realign(contents: RunContents) -> Section:
    """Pairs with their arms, F1 before and after, tokens and drift; of the run itself or its subfolder `realigned`.

    A subfolder that the run's config does not ask for is left by another config.
    """
    asked = contents.manifest.get("config", {}).get("realign")
    places = [contents.folder, *([contents.folder / "realigned"] if asked else [])]
    places = [place for place in places if (place / "realign.json").is_file()]
    if not places:
        return None
    details = json.loads((places[0] / "realign.json").read_text(encoding="utf-8"))["pairs"]
    rows = read_table(places[0] / "realignment.parquet", REALIGNMENT).to_pandas().to_dict("records") if details else []
    pairs = []
    for index, (row, detail) in enumerate(zip(rows, details, strict=True)):
        pair = {"row": row, "gate": detail["gate"], "held_out": detail.get("held_out"), "audits": detail.get("audits")}
        if pair["audits"]:
            f1 = read_table(places[0] / "realigned_f1.parquet", REALIGNED_F1).to_pandas()
            changes = f1[(f1["pair_annotator"] == row["annotator"]) & (f1["pair_theory"] == row["theory"])]
            cells: dict[str, dict[str, Any]] = {}
            for cell in changes.to_dict("records"):
                cells.setdefault(cell["annotator"], {})[cell["theory"]] = cell
            pair["f1"] = cells
            pair["theories"] = list(dict.fromkeys(changes["theory"]))
            pair["plot"] = Markup(plots.token_map(pair["audits"]["tokens"]["tsne"], f"tokens-{index}"))
        pairs.append(pair)
    folder = "" if places[0] == contents.folder else f"{places[0].name}/"
    return {"pairs": pairs, "arms": ARMS, "folder": folder}
