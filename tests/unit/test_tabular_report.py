"""One table judged in full, and the page and the terminal table made of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tabular_tables import mixed

from consilience.errors import UserError
from consilience.files import write_json
from consilience.report.augment import ASSESSMENTS, print_augmentation, write_report
from consilience.tabular.comparison import assess
from consilience.tabular.schema import TableSchema

CONFIG = {"method": "ppo", "data": "table.csv"}
ROUND = {"utility": 0.8, "coverage": 1.0, "exact_copies": 0.0, "closest": 1.0, "reward": None, "kl": None}


@pytest.fixture(scope="module")
def judged() -> dict[str, dict[str, Any]]:
    train, unseen = (mixed(60 - 20 * seed, seed)[["age", "city", "label"]] for seed in (0, 1))
    train, unseen = (frame.rename(columns={"city": "<b>city"}) for frame in (train, unseen))
    copied = assess(train, unseen, train, TableSchema.of(train, "label"), 0)
    assert copied.figures["column_shapes"] == copied.figures["exact_copies"] == 1.0
    assert copied.utility is not None
    assert copied.figures["utility_roc_auc"] == copied.utility["mean"]["roc_auc"]
    assert copied.discriminator_train < copied.discriminator_held_out
    found = copied.to_json()
    assert found["leaks"] == copied.privacy.leaks
    assert found["rows"] == 60
    return {"real": found, "independent": {**found, "leaks": []}, "ppo": found}


def put(folder: Path, found: dict[str, Any], **facts: Any) -> Path:
    manifest = {"job": "augment", "started": "2030-01-01T00:00:00+00:00", "code": "1", "config": CONFIG}
    write_json(folder / "manifest.json", {**manifest, **facts})
    write_json(folder / ASSESSMENTS, found)
    return folder


def test_the_page(judged: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    page = write_report(put(tmp_path, judged)).read_text(encoding="utf-8")
    for told in (
        "Learners on synthetic rows: <span>ROC-AUC", "language model, PPO", "&lt;b&gt;city",
        "keep closer to the training", 'class="flag"', "<svg", "of 40 unseen rows", "Gradient boosting",
    ):  # fmt: skip
        assert told in page
    assert "<script" not in page
    assert "<b>city" not in page
    assert page.count("<figure>") == 3


def test_the_page_tells_the_rounds(judged: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    rounds = [
        {"number": 0, "discriminator_auc": 0.876, **ROUND},
        {"number": 1, "discriminator_auc": None, **ROUND, "reward": -0.456, "kl": 1.25},
    ]
    reason = "utility fell <far>"
    page = write_report(put(tmp_path, judged, rounds=rounds, round_used=0, reason_of_end=reason)).read_text("utf-8")
    for told in ("utility fell &lt;far&gt;", "those of round 0", "0.876", "\N{MINUS SIGN}0.456", "1.250"):
        assert told in page


def test_the_page_without_a_target(judged: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    found = json.loads(json.dumps({"ppo": judged["independent"]}))
    found["ppo"].update(utility=None, utility_augmented=None, leaks=[])
    found["ppo"]["figures"] = {
        name: each for name, each in found["ppo"]["figures"].items() if not name.startswith(("utility", "augmented"))
    }
    page = write_report(put(tmp_path, found)).read_text(encoding="utf-8")
    assert "AUC against unseen rows" in page
    assert "What do the rows teach?" not in page
    assert "keep closer" not in page
    console = Console(record=True, width=160)
    print_augmentation(tmp_path, console)
    assert "utility" not in console.export_text()


def test_the_terminal(judged: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    console = Console(record=True, width=160)
    print_augmentation(put(tmp_path, judged), console)
    said = console.export_text()
    for told in (
        "real rows",
        "independent columns",
        "utility, ROC-AUC",
        "gives away training rows: exact_copies",
        "rows.csv",
    ):
        assert told in said


def test_a_run_without_figures(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"job": "augment", "config": CONFIG})
    with pytest.raises(UserError, match=r"assessments\.json"):
        write_report(tmp_path)
