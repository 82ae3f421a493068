"""Realignment in Ray Train and Ray Tune: two workers that lose one on the way train what one process trains."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from kills import TRAINER, at_work, killing

from actors.realign_worker import read_trained, train_pair, tune_pair
from consilience.lm.language_model import load_model
from consilience.realign.pair import build_trainer, make_readable
from consilience.realign.settings import RealignWorkersConfig, TrainingConfig, TuneSettings

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from realign_models import pair, save

pytestmark = pytest.mark.chaos

CONFIG = TrainingConfig(epochs=25, patience=25, warmup_epochs=1, batch_size=8)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.timeout(300)
def test_two_workers_equal_one_even_when_one_dies(cluster: None, tmp_path: Path) -> None:
    case = pair(save(tmp_path / "models"), items=20)
    alone = build_trainer(
        make_readable(load_model(case.annotator.source, None, "float32"), case, tmp_path, 1e9), case, CONFIG
    )
    with alone.reading():
        while not alone.finished:
            alone.step()
    workers = RealignWorkersConfig(workers=2, max_failures=2, checkpoint_items=150)
    with killing(lambda: at_work(TRAINER, tmp_path / "pair")) as killed:
        trained = read_trained(ray.get(train_pair.remote(case, CONFIG, workers, tmp_path, "pair")))
    assert killed
    assert len(trained.history) == len(alone.history)
    np.testing.assert_allclose(
        [metrics["js_dev"] for metrics in trained.history], [metrics["js_dev"] for metrics in alone.history], atol=1e-4
    )
    np.testing.assert_allclose(trained.scores, alone.scores, atol=1e-3)
    torch.testing.assert_close(trained.fit.rows, alone.fit.rows, atol=1e-3, rtol=1e-3)
    assert trained.audits["tokens"]["without_word"]["logits_identical"] == 1.0


@pytest.mark.timeout(300)
def test_tune_returns_settings_that_are_no_worse(cluster: None, tmp_path: Path) -> None:
    case = pair(save(tmp_path / "models"), items=20)
    config = CONFIG.model_copy(update={"epochs": 4})
    chosen = tune_pair(case, config, RealignWorkersConfig(), TuneSettings(trials=3, grace_epochs=1), tmp_path, "search")
    assert chosen.cosine_weight in (0.0, 0.1, 1.0, 10.0)
    assert chosen.epochs == 4
    best = []
    for settings in (config, chosen):
        model = load_model(case.annotator.source, None, "float32")
        trainer = build_trainer(make_readable(model, case, tmp_path, 1e9), case, settings, arms=("tokens",), splits=1)
        with trainer.reading():
            while not trainer.finished:
                trainer.step()
        best.append(min(float(metrics["js_dev"]) for metrics in trainer.history))
    assert best[1] <= best[0] + 1e-6
