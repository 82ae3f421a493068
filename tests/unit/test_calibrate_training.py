"""Tuning: what can be learned is learned, the best epoch is kept, and a stopped training goes on as if it had not."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from calibrate_items import voted_pairs, voted_texts
from lm_models import save_tiny_model
from transformers import LlamaConfig
from value_models import save_tiny_encoder

from consilience.calibration.models import AnswerModel, TunedEncoder, TunedLanguageModel, open_language_model, read
from consilience.calibration.questions import unordered
from consilience.calibration.settings import LOSSES, EncoderFit, LanguageModelFit, Loss, ModelConfig
from consilience.calibration.tasks import VotedItems
from consilience.calibration.training import CONCENTRATION, CalibrationTrainer, put
from consilience.errors import UserError
from consilience.ppo.settings import LoraSettings
from consilience.values.settings import EncoderConfig, FitConfig

FIT = EncoderFit(epochs=8, batch_size=8, learning_rate=2e-3, head_learning_rate=2e-2)
TRAIN, DEV, TEST = voted_pairs(60, 0), voted_pairs(16, 1), voted_pairs(30, 2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
    patch = pytest.MonkeyPatch()
    patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
    return EncoderConfig(source=save_tiny_encoder(tmp_path_factory.mktemp("encoder")), max_tokens=32)


def finish(model: AnswerModel, train: VotedItems, dev: VotedItems, loss: Loss, fit: FitConfig) -> CalibrationTrainer:
    trainer = CalibrationTrainer(model, train, dev, loss, fit, 0)
    while not trainer.finished:
        trainer.step()
    return trainer


class Constant:
    """Says the same of every item; `mass` of the probability falls on the answers."""

    fresh: frozenset[str] = frozenset()
    device = torch.device("cpu")

    def __init__(self, mass: float) -> None:
        self.trainable = {"logits": torch.nn.Parameter(torch.zeros(2))}
        self._mass = mass

    def tokenise(self, items: VotedItems) -> list[list[list[int]]]:
        return [[[0]]] * len(items)

    def batches(self, rows: Sequence[list[list[int]]]) -> Iterator[list[int]]:
        yield list(range(len(rows)))

    def forward(self, rows: Sequence[list[list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
        logits = (self.trainable["logits"] + math.log(self._mass / 2)).expand(len(rows), 1, 2)
        return logits, torch.full((len(rows),), self._mass)


@pytest.mark.parametrize("mass", [1.0, 0.01])
def test_answering_in_form_is_no_merit(mass: float) -> None:
    """A loss that took the mass for the concentration would be 0.70 with a hundredth of it on the answers."""
    votes = replace(TRAIN, votes=np.tile([3.0, 0.0], (len(TRAIN), 1)))
    for loss, expected in (("cross_entropy", math.log(2)), ("dirichlet_multinomial", math.log(16 / 5))):
        trainer = CalibrationTrainer(Constant(mass), votes, votes, loss, FIT, 0)  # type: ignore[arg-type]
        assert trainer.step()["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_encoder_learns_how_people_split(encoder: EncoderConfig, loss: Loss) -> None:
    model = TunedEncoder(encoder, TRAIN, 0)
    trainer = finish(model, TRAIN, DEV, loss, FIT)
    put(model.trainable, trainer.best)
    log_p = unordered(torch.from_numpy(read(model, TEST)[0])).log_softmax(-1)
    people = TEST.votes / TEST.votes.sum(axis=1, keepdims=True)
    floor = -(people * np.log(people)).sum(axis=1).mean()
    assert -(people * log_p.numpy()).sum(axis=1).mean() < floor + 0.03, "split as people do, not merely the right side"
    assert [entry["epoch"] for entry in trainer.history] == list(range(1, 9))
    dev = [entry["ce_dev"] for entry in trainer.history]
    assert trainer.history[0]["loss_train"] > trainer.history[-1]["loss_train"]  # type: ignore[operator]
    assert min(dev) < 0.6  # type: ignore[type-var,operator]
    assert (CONCENTRATION in trainer.best) == (loss == "dirichlet_multinomial")
    if loss == "dirichlet_multinomial":
        assert trainer.history[-1]["concentration"] > 1.2, "people agree more than one vote each would"  # type: ignore[operator]


def test_a_language_model_learns_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))
    config = ModelConfig(source=save_tiny_model(tmp_path / "tiny", LlamaConfig), dtype="float32")
    items = voted_texts(24, 0)
    fit = LanguageModelFit(
        epochs=6, batch_size=8, learning_rate=5e-3, head_learning_rate=0.1, lora=LoraSettings(rank=4, alpha=8)
    )
    model = TunedLanguageModel(open_language_model(config), items, fit=fit)
    trainer = finish(model, items, voted_texts(8, 1), "dirichlet_multinomial", fit)
    losses = [entry["loss_train"] for entry in trainer.history]
    assert losses[-1] < losses[0] - 0.1  # type: ignore[operator]
    assert trainer.best.keys() == {*model.trainable, CONCENTRATION}


def test_a_stopped_training_repeats_the_numbers(encoder: EncoderConfig, tmp_path: Path) -> None:
    fit = FIT.model_copy(update={"epochs": 3})
    whole = finish(TunedEncoder(encoder, TRAIN, 0), TRAIN, DEV, "dirichlet_multinomial", fit)
    first = CalibrationTrainer(TunedEncoder(encoder, TRAIN, 0), TRAIN, DEV, "dirichlet_multinomial", fit, 0)
    for _ in range(11):
        first.step()
    first.save(tmp_path / "checkpoint")
    second = CalibrationTrainer(TunedEncoder(encoder, TRAIN, 5), TRAIN, DEV, "dirichlet_multinomial", fit, 0)
    second.load(tmp_path / "checkpoint")
    while not second.finished:
        second.step()
    keys = ("loss_train", "ce_dev", "concentration")
    assert [[e[k] for k in keys] for e in second.history] == [[e[k] for k in keys] for e in whole.history]
    for name, value in whole.best.items():
        assert torch.equal(value, second.best[name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stopped_training_of_the_last_layers_repeats_the_numbers(
    dtype: Literal["float32", "bfloat16"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What enters them is kept in memory alone, and is read in other batches after a stop."""
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))
    config = ModelConfig(source=save_tiny_model(tmp_path / "tiny", LlamaConfig), dtype=dtype)
    lora = LoraSettings(rank=2, alpha=4)
    fit = LanguageModelFit(epochs=3, batch_size=8, learning_rate=5e-3, lora=lora, layers=2)

    def fresh() -> CalibrationTrainer:
        model = TunedLanguageModel(open_language_model(config), TRAIN, "apart", fit, 0)
        return CalibrationTrainer(model, TRAIN, DEV, "cross_entropy", fit, 0)

    whole, first, second = fresh(), fresh(), fresh()
    while not whole.finished:
        whole.step()
    for _ in range(11):
        first.step()
    first.save(tmp_path / "checkpoint")
    second.load(tmp_path / "checkpoint")
    while not second.finished:
        second.step()
    keys = ("loss_train", "ce_dev")
    assert [[e[k] for k in keys] for e in second.history] == [[e[k] for k in keys] for e in whole.history]
    for name, value in whole.best.items():
        assert torch.equal(value, second.best[name])


def test_the_best_epoch_is_kept(encoder: EncoderConfig) -> None:
    fit = EncoderFit(epochs=3, batch_size=8, learning_rate=1e-6, head_learning_rate=5.0, warmup=0.0)
    model = TunedEncoder(encoder, TRAIN, 0)
    trainer = finish(model, TRAIN, DEV, "cross_entropy", fit)
    put(model.trainable, trainer.best)
    log_p = unordered(torch.from_numpy(read(model, DEV)[0])).log_softmax(-1)
    people = DEV.votes / DEV.votes.sum(axis=1, keepdims=True)
    kept = float(-(people * log_p.numpy()).sum(axis=1).mean())
    assert kept == pytest.approx(min(entry["ce_dev"] for entry in trainer.history), rel=1e-5)  # type: ignore[type-var]


def test_shares_have_no_dirichlet_multinomial(encoder: EncoderConfig) -> None:
    shares = replace(TRAIN, counted=False)
    with pytest.raises(UserError, match="needs counts of votes"):
        CalibrationTrainer(TunedEncoder(encoder, shares, 0), shares, DEV, "dirichlet_multinomial", FIT, 0)
