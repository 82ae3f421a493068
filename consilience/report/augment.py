"""The page and the terminal table of a grown table: every generator judged on the same real rows."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consilience.files import read_json
from consilience.report.environment import write_page
from consilience.report.text import number, percent
from consilience.runs import read_manifest
from consilience.tabular.table_files import file_like

ASSESSMENTS = "assessments.json"
"""By system, in the page's order, what `Assessment.to_json` gives; 'real' are the training rows themselves."""

SYSTEMS = {
    "real": "real rows",
    "ppo": "language model, PPO",
    "sft": "language model, tuned",
    "bootstrap": "copies of real rows",
    "cart": "sequential CART",
    "arf": "adversarial forest",
    "smote": "SMOTE-NC",
    "resample": "two values redrawn",
    "independent": "independent columns",
}
MEASURES = {"accuracy": "Accuracy", "roc_auc": "ROC-AUC", "macro_f1": "F1, macro", "r2": "R²"}
LEARNERS = {
    "decision_tree": "Decision tree",
    "random_forest": "Random forest",
    "logistic_regression": "Logistic regression",
    "ridge_regression": "Ridge regression",
    "gradient_boosting": "Gradient boosting",
    "mean": "Mean",
}
_WIDTH, _HEIGHT = 132.0, 56.0

Assessments = dict[str, dict[str, Any]]


def write_report(folder: Path) -> Path:
    """Render `folder`/report.html from a run of augment; returns its path. It loads nothing and runs no script.

    Raises:
        UserError: not such a run, or the page cannot be written.
    """
    manifest, found = read_manifest(folder), _assessments(folder)
    method = manifest["config"]["method"]
    return write_page(
        folder,
        "augment.html.jinja",
        found=found,
        method=method,
        own=found[method],
        systems={name: SYSTEMS.get(name, name) for name in found},
        measures=[measure for measure in MEASURES if f"utility_{measure}" in found[method]["figures"]],
        titles=MEASURES,
        learners=LEARNERS,
        panels=[_panel(shape) for shape in sorted(found[method]["shapes"], key=_score)],
    )


def print_augmentation(folder: Path, console: Console) -> None:
    """Print the headline figures of every system, what the synthetic rows give away, and where rows and report are."""
    config, found = read_manifest(folder)["config"], _assessments(folder)
    method = config["method"]
    title = "Judged on held-out real rows"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, collapse_padding=True)
    measure = next((each for each in ("roc_auc", "r2") if f"utility_{each}" in found[method]["figures"]), None)
    titles = [] if measure is None else [f"utility, {MEASURES[measure]}"]
    for column in ("system", *titles, "discriminator", "column shapes", "pair trends", "copies", "membership"):
        table.add_column(column, justify="left" if column == "system" else "right", no_wrap=column == "system")
    for system, each in found.items():
        figures = each["figures"]
        keys = ([] if measure is None else [f"utility_{measure}"]) + [
            "discriminator_held_out", "column_shapes", "pair_trends",
        ]  # fmt: skip
        table.add_row(
            SYSTEMS.get(system, system),
            *(number(figures[key], 3) for key in keys),
            percent(figures["exact_copies"]),
            number(figures["membership_auc"], 3),
            style="bold" if system == method else None,
        )
    console.print(table)
    console.print(f"copies among held-out real rows: {percent(found[method]['figures']['exact_copies_held_out'])}")
    for leak in found[method]["leaks"]:
        console.print(Text(f"gives away training rows: {leak}", style="yellow"))
    written = folder / file_like(Path(config["data"]), "rows")
    for name, path in (("rows", written), ("report", folder / "report.html")):
        console.print(Text.assemble(f"{name}: ", (str(path), "bold")), soft_wrap=True)


def _assessments(folder: Path) -> Assessments:
    return read_json(folder / ASSESSMENTS, "the figures of a finished augment run")


def _score(shape: dict[str, Any]) -> float:
    return 0.0 if shape["score"] is None else shape["score"]


def _panel(shape: dict[str, Any]) -> dict[str, Any]:
    """A column's bars as rectangles of its small plot: of each part of the range or category real, then synthetic."""
    top = max([*shape["real"], *shape["synthetic"]], default=0.0) or 1.0
    step = _WIDTH / max(len(shape["labels"]), 1)
    bars = []
    for at, (label, real, synthetic) in enumerate(zip(shape["labels"], shape["real"], shape["synthetic"], strict=True)):
        title = f"{label}: real {percent(real)}, synthetic {percent(synthetic)}"
        for side, share in enumerate((real, synthetic)):
            height = _HEIGHT * share / top
            place = {"x": step * (at + 0.08 + 0.42 * side), "y": _HEIGHT - height, "width": 0.42 * step}
            bars.append({**place, "height": height, "synthetic": bool(side), "title": title})
    return {**shape, "bars": bars, "width": _WIDTH, "height": _HEIGHT}
