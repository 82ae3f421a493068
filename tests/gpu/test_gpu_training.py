"""Training on a GPU: the CPU's numbers up to rounding, and a stopped training that goes on, there or on the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from calibrate_items import voted_pairs, voted_texts
from devices import GPU, on_cpu
from ppo_models import tiny_model, tiny_tokeniser
from realign_models import pair, save
from test_ppo_trainer import config as ppo_config
from test_ppo_trainer import worth
from test_value_aggregator import ANSWERS, END, question
from test_value_aggregator import settings as sft_settings
from value_models import save_tiny_encoder, value_examples

from consilience.calibration.models import AnswerModel, TunedEncoder, TunedLanguageModel, open_language_model, read
from consilience.calibration.settings import EncoderFit, LanguageModelFit, ModelConfig
from consilience.calibration.tasks import VotedItems
from consilience.calibration.training import CalibrationTrainer
from consilience.lm.language_model import load_model
from consilience.ppo.policy import Policy
from consilience.ppo.settings import LoraSettings
from consilience.ppo.trainer import PPOTrainer
from consilience.realign.audit import audit
from consilience.realign.pair import build_trainer, make_readable
from consilience.realign.settings import TrainingConfig
from consilience.realign.training import ARMS, PairTrainer
from consilience.values.aggregator import build_sft_trainer, losses
from consilience.values.aggregator_data import build_examples
from consilience.values.base import BaseConfig, load_own
from consilience.values.classifier import ValueClassifier
from consilience.values.settings import EncoderConfig, FitConfig
from consilience.values.split import split_by_situation
from consilience.values.training import ClassifierTrainer

pytestmark = pytest.mark.gpu

CLOSE = 1e-3
"""Between losses of the first steps on the two devices, both in float32."""

AGAIN = 1e-4
"""Between losses of a training that was stopped and of one that was not, both on the GPU."""


def figures(history: Sequence[Any], *keys: str) -> np.ndarray[Any, Any]:
    return np.array([[entry[key] for key in keys] for entry in history], dtype=np.float64)


# Realignment

REALIGN = TrainingConfig(epochs=3, warmup_epochs=2, patience=2, batch_size=6, head_learning_rate=1e-2)


def realignment(source: str, folder: Path, packs: bool = True) -> PairTrainer:
    model = load_model.__wrapped__(source, None, "float32")
    model.packs = packs and model.packs
    case = pair(source)
    return build_trainer(make_readable(model, case, folder, 1e9), case, REALIGN)


def run(trainer: PairTrainer) -> np.ndarray[Any, Any]:
    with trainer.reading():
        while not trainer.finished:
            trainer.step()
    return figures(trainer.history, "js_train", "js_dev", "cosine_distance")


@pytest.mark.parametrize("name", ["tied", "scaled embeddings, short window"])
def test_realignment(name: str, tmp_path: Path) -> None:
    source = save(tmp_path, name)
    with on_cpu():
        cpu = realignment(source, tmp_path)
    whole, full = realignment(source, tmp_path), realignment(source, tmp_path, packs=False)
    assert whole._suffix.originals.device.type == GPU
    expected = run(cpu)
    found = run(whole)
    np.testing.assert_allclose(found[:2], expected[:2], atol=CLOSE)
    np.testing.assert_allclose(run(full)[:2], expected[:2], atol=CLOSE)
    for arm in ARMS:
        assert ((whole.predictions[arm] >= 0) & (whole.predictions[arm] <= 1)).all()

    first = realignment(source, tmp_path)
    with first.reading():
        for _ in range(5):
            first.step()
    first.save(tmp_path / "kept")
    second = realignment(source, tmp_path)
    second.load(tmp_path / "kept")
    np.testing.assert_allclose(run(second), found, atol=AGAIN)
    np.testing.assert_allclose(second.scores, whole.scores, atol=1e-3)
    with on_cpu():
        moved = realignment(source, tmp_path)
    moved.load(tmp_path / "kept")
    np.testing.assert_allclose(run(moved)[:5], found[:5], atol=1e-6)


def test_the_audit_of_theory_tokens(base: BaseConfig) -> None:
    with on_cpu():
        cpu = load_model.__wrapped__(base.source, None, "float32")
    gpu = load_model.__wrapped__(base.source, None, "float32")
    word = (40, 50)
    rows = torch.randn(2, cpu.width, generator=torch.Generator().manual_seed(0))
    expected, found = audit(cpu, "deontology", word, rows), audit(gpu, "deontology", word, rows.to(gpu.model.device))
    assert found["benchmark"] == expected["benchmark"]
    for side in ("with_word", "without_word"):
        for key in ("perplexity_before", "perplexity_after"):
            assert found[side][key] == pytest.approx(expected[side][key], rel=CLOSE)


# PPO


def ppo(device: str, dtype: torch.dtype = torch.float32, **settings: Any) -> PPOTrainer:
    policy = Policy(tiny_model().to(device, dtype), tiny_tokeniser(), LoraSettings(rank=8, alpha=16))
    return PPOTrainer(policy, [[2], [3, 4]], worth, ppo_config(**settings))


def test_ppo_step() -> None:
    cpu, gpu = ppo("cpu"), ppo(GPU)
    for name, parameter in gpu.policy.trainable.items():
        assert parameter.device.type == GPU
        assert torch.equal(parameter.cpu(), cpu.policy.trainable[name]), "the same beginning"
    expected, found = cpu.step(), gpu.step()
    for key, value in expected.items():
        if not key.startswith("seconds"):
            assert found[key] == pytest.approx(value, abs=CLOSE, rel=1e-2), key


def test_ppo_goes_on(tmp_path: Path) -> None:
    first = ppo(GPU, kl_target=5.0, kl_gain=0.5)
    first.step()
    first.save(tmp_path / "kept")
    second, moved = ppo(GPU, kl_target=5.0, kl_gain=0.5), ppo("cpu", kl_target=5.0, kl_gain=0.5)
    for trainer in (second, moved):
        trainer.load(tmp_path / "kept")
        for name, parameter in first.policy.trainable.items():
            assert torch.equal(parameter.cpu(), trainer.policy.trainable[name].cpu())
    expected, found, elsewhere = first.step(), second.step(), moved.step()
    for key, value in expected.items():
        if not key.startswith("seconds"):
            assert found[key] == pytest.approx(value, abs=AGAIN, rel=1e-3), key
            assert elsewhere[key] == pytest.approx(value, abs=5e-3, rel=5e-2), key
    for name, parameter in first.policy.trainable.items():
        torch.testing.assert_close(second.policy.trainable[name], parameter, atol=1e-4, rtol=1e-3)


def test_ppo_learns_on_a_base_in_bfloat16() -> None:
    sizes = {"batch_size": 128, "minibatch_size": 64, "microbatch_size": 64}
    trainer = ppo(GPU, torch.bfloat16, **sizes, learning_rate=3e-3, kl_coef=0.02, value_coef=0.5)
    assert {parameter.dtype for parameter in trainer.policy.trainable.values()} == {torch.float32}
    rewards = [float(trainer.step()["reward"] or 0) for _ in range(8)]
    assert rewards[-1] > rewards[0] + 0.3


# Value classifiers

FIT = FitConfig(epochs=3, batch_size=16, learning_rate=1e-3, head_learning_rate=1e-2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
    return EncoderConfig(source=save_tiny_encoder(tmp_path_factory.mktemp("encoder")), max_tokens=32)


def classifier(encoder: EncoderConfig, examples: pd.DataFrame) -> ClassifierTrainer:
    return ClassifierTrainer(ValueClassifier.build(encoder, 0), examples, FIT, 0)


def finish(trainer: ClassifierTrainer | CalibrationTrainer, *keys: str) -> np.ndarray[Any, Any]:
    while not trainer.finished:
        trainer.step()
    return figures(trainer.history, *keys)


def test_value_classifier(encoder: EncoderConfig, tmp_path: Path) -> None:
    examples = split_by_situation(value_examples(80), 4, 0)
    texts = examples["text"].tolist()
    with on_cpu():
        cpu = classifier(encoder, examples)
        moved = classifier(encoder, examples)
    gpu, first, second = (classifier(encoder, examples) for _ in range(3))
    assert gpu.model.device.type == GPU
    np.testing.assert_allclose(gpu.logits(texts), cpu.logits(texts), atol=1e-4)
    assert [gpu.step()["loss"] for _ in range(3)] == pytest.approx([cpu.step()["loss"] for _ in range(3)], abs=CLOSE)
    whole = finish(gpu, "loss_train")
    np.testing.assert_allclose(whole, finish(cpu, "loss_train"), atol=0.02)
    for _ in range(gpu.steps // 2):
        first.step()
    first.save(tmp_path / "kept")
    second.load(tmp_path / "kept")
    np.testing.assert_allclose(finish(second, "loss_train"), whole, atol=AGAIN)
    moved.load(tmp_path / "kept")
    np.testing.assert_allclose(finish(moved, "loss_train"), whole, atol=0.02)


# Calibration


def tune(model: AnswerModel, items: VotedItems, dev: VotedItems, fit: FitConfig) -> CalibrationTrainer:
    return CalibrationTrainer(model, items, dev, "dirichlet_multinomial", fit, 0)


def test_calibrated_encoder(encoder: EncoderConfig, tmp_path: Path) -> None:
    fit = EncoderFit(epochs=3, batch_size=8, learning_rate=1e-3, head_learning_rate=1e-2)
    items, dev = voted_pairs(40, 0), voted_pairs(16, 1)
    with on_cpu():
        cpu = tune(TunedEncoder(encoder, items, 0), items, dev, fit)
    gpu, first, second = (tune(TunedEncoder(encoder, items, 0), items, dev, fit) for _ in range(3))
    assert gpu.model.device.type == GPU
    np.testing.assert_allclose(read(gpu.model, dev)[0], read(cpu.model, dev)[0], atol=1e-4)
    keys = ("loss_train", "ce_dev", "concentration")
    whole = finish(gpu, *keys)
    np.testing.assert_allclose(whole, finish(cpu, *keys), atol=0.02)
    for _ in range(7):
        first.step()
    first.save(tmp_path / "kept")
    second.load(tmp_path / "kept")
    np.testing.assert_allclose(finish(second, *keys), whole, atol=AGAIN)


@pytest.mark.parametrize("layers", [None, 1])
def test_calibrated_language_model(base: BaseConfig, layers: int | None, tmp_path: Path) -> None:
    fit = LanguageModelFit(
        epochs=3, batch_size=8, learning_rate=2e-3, head_learning_rate=0.1, lora=LoraSettings(rank=4, alpha=8),
        layers=layers,
    )  # fmt: skip
    items, dev = voted_texts(24, 0), voted_texts(8, 1)

    def trainer() -> CalibrationTrainer:
        model = open_language_model(ModelConfig(source=base.source, dtype="float32"))
        return tune(TunedLanguageModel(model, items, fit=fit), items, dev, fit)

    with on_cpu():
        cpu = trainer()
    gpu, first, second = (trainer() for _ in range(3))
    assert gpu.model.device.type == GPU
    for found, expected in zip(read(gpu.model, dev), read(cpu.model, dev), strict=True):
        np.testing.assert_allclose(found, expected, atol=CLOSE)
    keys = ("loss_train", "ce_dev", "concentration")
    whole = finish(gpu, *keys)
    np.testing.assert_allclose(whole, finish(cpu, *keys), atol=0.02)
    for _ in range(4):
        first.step()
    first.save(tmp_path / "kept")
    second.load(tmp_path / "kept")
    np.testing.assert_allclose(finish(second, *keys), whole, atol=1e-3)


# The aggregator


def test_aggregator(base: BaseConfig, tmp_path: Path) -> None:
    model = load_own(base)
    before = {name: weights.clone() for name, weights in model.model.named_parameters()}
    train, validation = (
        build_examples(model.tokeniser, "dynamic", [question(k, care=1) for k in part], ANSWERS, END, 600, 50)
        for part in (range(6), range(6, 8))
    )
    trainer = build_sft_trainer(model, train, validation, sft_settings(steps=40, evaluate_every=10), tmp_path)
    trainer.train()
    assert next(trainer.model.parameters()).device.type == GPU
    found = losses(trainer.state.log_history)
    assert found["loss_validation"] < found["loss_validation_before"] / 2  # type: ignore[operator]
    for name, weights in model.model.named_parameters():
        kept = name.replace(".base_layer", "")
        assert kept not in before or torch.equal(weights, before[kept]), f"{name} was changed"


# Four bits


def test_an_adapter_on_weights_in_four_bits(smollm2: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    fit = LanguageModelFit(epochs=1, batch_size=8, lora=LoraSettings(rank=4, alpha=8))
    items = voted_texts(16, 0)
    model = TunedLanguageModel(open_language_model(ModelConfig(source=smollm2, four_bit=True)), items, fit=fit)
    assert model.device.type == GPU
    before = {name: parameter.detach().clone() for name, parameter in model.trainable.items()}
    history = finish(tune(model, items, voted_texts(8, 1), fit), "loss_train", "ce_dev")
    assert np.isfinite(history).all()
    assert any(not torch.equal(parameter, before[name]) for name, parameter in model.trainable.items())
