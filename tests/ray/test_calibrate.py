"""Calibration on Ray: two workers that lose one tune what one process tunes; and the whole job, resumed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from kills import TRAINER, at_work, killing
from safetensors.torch import load_file

from actors.calibrate_worker import read_items, tune
from consilience.calibration.models import TunedEncoder, read
from consilience.calibration.settings import EncoderFit, TuningWorkersConfig
from consilience.calibration.training import CalibrationTrainer, put
from consilience.lm.sources import ADAPTER_WEIGHTS
from consilience.table_schema import read_table
from consilience.tables import CALIBRATE_METRICS, CALIBRATE_PREDICTIONS
from consilience.values.settings import EncoderConfig
from jobs.calibrate import JOB
from jobs.cli import main

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from calibrate_items import voted_pairs
from value_models import save_tiny_encoder

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
FIT = EncoderFit(epochs=6, batch_size=5, learning_rate=2e-3, head_learning_rate=2e-2)


def test_two_workers_equal_one_even_when_one_dies(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))
    encoder = EncoderConfig(source=save_tiny_encoder(tmp_path / "encoder"), max_tokens=32)
    train, dev = voted_pairs(61, 0), voted_pairs(15, 1)  # the last batch of an epoch leaves a worker without an item
    alone = CalibrationTrainer(TunedEncoder(encoder, train, 0), train, dev, "dirichlet_multinomial", FIT, 0)
    while not alone.finished:
        alone.step()
    workers = TuningWorkersConfig(workers=2, max_failures=2, checkpoint_batches=20)
    with killing(lambda: at_work(TRAINER, tmp_path / "two")) as killed:
        tuned = tune(train, dev, encoder, FIT, "dirichlet_multinomial", 0, workers, tmp_path, "two")
    assert killed
    for key in ("loss_train", "ce_dev", "concentration"):
        pair = [[entry[key] for entry in history] for history in (tuned.history, alone.history)]
        np.testing.assert_allclose(pair[0], pair[1], rtol=1e-3)  # type: ignore[arg-type]
    # What they say, not their weights: some move nothing (a bias of all keys, one of both actions), so that their
    # gradients are rounding, of which Adam makes steps.
    here = TunedEncoder(encoder, train, 0)
    put(here.trainable, alone.best)
    expected = read(here, dev)[0]
    put(here.trainable, load_file(tuned.weights))
    found = read(here, dev)[0]
    np.testing.assert_allclose(found - found[..., :1], expected - expected[..., :1], atol=5e-3)
    np.testing.assert_allclose(read_items(dev, encoder, tuned.weights, workers).logits, found, atol=1e-4)


def test_the_smoke_config(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command = ["--config", "configs/smoke/calibrate.yaml", "--out", str(tmp_path / "run")]
    assert main(JOB, command) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    for key in ("ce_prior", "ce_before", "ce_after", "ce_encoder", "ce_bound", "dm_before", "dm_after"):
        assert 0 < summary[key] < 10
    assert 0 < summary["answer_mass_before"] <= 1
    assert 0 < summary["answer_mass_after"] <= 1
    assert summary["items"] == 40
    assert read_table(tmp_path / "run/calibrate_metrics.parquet", CALIBRATE_METRICS).num_rows == 8 * 9
    assert read_table(tmp_path / "run/calibrate_predictions.parquet", CALIBRATE_PREDICTIONS).num_rows
    assert (tmp_path / "run/adapter" / ADAPTER_WEIGHTS).exists()
    about = json.loads((tmp_path / "run/adapter/calibration.json").read_text())
    assert about["loss"] == "dirichlet_multinomial"
    assert about["learned_concentration"] > 0
    assert not list((tmp_path / "run/training").iterdir()), "checkpoints of a finished training are not kept"
    assert "Cross-entropy to people" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    before = json.loads((tmp_path / "run/manifest.json").read_text())["stages"]
    assert set(before) == {"read_before", "tune", "read_after", "tune_encoder", "read_encoder"}
    assert main(JOB, command) == 0
    assert json.loads((tmp_path / "run/manifest.json").read_text())["stages"] == before, "nothing is done twice"
    assert json.loads((tmp_path / "run/summary.json").read_text())["ce_after"] == summary["ce_after"]
