"""The job's plan, tables as files, and the one method that needs no model."""

import json
from pathlib import Path

import pandas as pd
import pytest
from tabular_tables import judge_by_few_trees, mixed

from consilience.errors import UserError
from consilience.tabular.table_files import hold_out, read_frame, write_frame
from jobs.augment import JOB
from jobs.cli import main

ROOT = Path(__file__).parents[2]
SURVEY = str(ROOT / "configs/demo_survey.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--data", "table.xlsx"], "expected a file named *.csv"),
        (["--data", SURVEY, "--target", "height"], "target 'height': no such column; expected one of age"),
        (["--data", SURVEY, "--rows", "0"], "key 'rows'"),
        (["--data", SURVEY, "--method", "copy"], "key 'method'"),
        (["--data", SURVEY, "--set", "adversarial=null"], "method ppo needs `adversarial`"),
        (["--data", SURVEY, "--set", "conditions.height=3"], "condition 'height': no such column"),
        (["--data", SURVEY, "--set", "conditions.age=500"], "condition 'age': 500; expected 23 to 77"),
        (["--data", SURVEY, "--set", "conditions.region=Mars"], "condition 'region': 'Mars'; expected '"),
        (["--data", SURVEY, "--method", "resample", "--set", "conditions.age=30"], "method resample takes none"),
        (["--data", SURVEY, "--set", "base.source=package:nowhere"], "no package"),
        (["--data", SURVEY, "--set", "workers.workers=3"], "cannot be shared by 3 workers"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(JOB, [*arguments, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("config", "columns"), [("augment", 14), ("augment_survey", 14), ("smoke/augment", 6)])
def test_the_configs_shipped_are_valid(
    config: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(JOB, ["--config", f"configs/{config}.yaml", "--dry-run"]) == 0
    assert f"96 rows of {columns} columns; 77 to learn from, 19 to judge by" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "table.parquet"])
def test_tables_come_back_from_their_files(name: str, tmp_path: Path) -> None:
    table = mixed(20)[["age", "income", "city", "member", "label"]]
    if name.endswith(".gz"):
        table.to_csv(tmp_path / name, index=False)
    else:
        write_frame(table, tmp_path / name)
    pd.testing.assert_frame_equal(read_frame(tmp_path / name), table)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("a,b,a\n1,2,3\n", encoding="utf-8")
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    (tmp_path / "bad.parquet").write_bytes(b"no")
    for name, message in [
        ("twice.csv", "two columns are named 'a'"),
        ("empty.csv", "not a table"),
        ("bad.parquet", "not a table"),
    ]:
        with pytest.raises(UserError, match=message):
            read_frame(tmp_path / name)
    (tmp_path / "marks.csv").write_text("a,b\n1,?\n2,3\n", encoding="utf-8")
    assert read_frame(tmp_path / "marks.csv", ["?"])["b"].isna().tolist() == [True, False]


def test_every_class_is_held_out_alike() -> None:
    frame = pd.DataFrame({"x": range(100), "y": ["a"] * 90 + ["b"] * 10})
    train, test = hold_out(frame, "y", 0.2, 0)
    assert sorted([*train["x"], *test["x"]]) == list(range(100)), "no row is on both sides"
    assert ((test["y"] == "b").sum(), len(train), len(test)) == (2, 80, 20)
    assert len(hold_out(frame.iloc[:5], "y", 0.2, 0)[1]) == 0
    assert len(hold_out(frame, "x", 0.2, 0)[1]) == 20, "too many values to hold out each"


def test_resample_needs_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge_by_few_trees(monkeypatch)
    mixed(60).to_parquet(tmp_path / "table.parquet")
    arguments = ["--data", str(tmp_path / "table.parquet"), "--target", "label", "--method", "resample", "--rows", "30"]
    assert main(JOB, [*arguments, "--out", str(tmp_path / "run")]) == 0
    rows = pd.read_parquet(tmp_path / "run/rows.parquet")
    assert len(rows) == 30
    assert rows.dtypes.equals(mixed(60).dtypes)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["rows"] == 30
    assert 0 <= summary["utility_synthetic"] <= 1
    assert summary["utility_sft"] is None
    assert "How did the rounds go?" not in (tmp_path / "run/report.html").read_text(encoding="utf-8")
