"""Rows of tables on a GPU: taught, drawn, told from real ones and guided, in bfloat16 where that is fast."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from devices import GPU, on_cpu
from tabular_tables import mixed
from test_tabular_adversarial import days
from value_models import save_tiny_encoder

from consilience.ppo.settings import LoraSettings, PPOConfig
from consilience.tabular.codec import RowCodec
from consilience.tabular.discriminator import Discriminator, DiscriminatorReward
from consilience.tabular.fine_tuning import FineTuner
from consilience.tabular.generator import TabularGenerator
from consilience.tabular.row_model import RowModel, autocast
from consilience.tabular.row_policy import merged, row_trainer
from consilience.tabular.sampling import sample_rows
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import AdversarialConfig, DiscriminatorConfig, FineTuneConfig, GeneratorConfig
from consilience.values.base import BaseConfig
from consilience.values.settings import EncoderConfig

pytestmark = pytest.mark.gpu

TUNING = FineTuneConfig(epochs=4, learning_rate=3e-3, batch_size=16)
PPO = PPOConfig(
    updates=2, batch_size=32, minibatch_size=16, microbatch_size=16, generation_batch_size=32, epochs=1, kl_coef=1.0
)
ADVERSARIAL = AdversarialConfig(rounds=1, lora=LoraSettings(rank=4, alpha=8), ppo=PPO)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> DiscriminatorConfig:
    encoder = EncoderConfig(source=save_tiny_encoder(tmp_path_factory.mktemp("encoder")), max_tokens=32)
    return DiscriminatorConfig(encoder=encoder, epochs=4, learning_rate=3e-3)


def tuner(base: BaseConfig) -> FineTuner:
    frame = mixed(80)
    schema = TableSchema.of(frame, "label")
    rows = schema.rows(frame)
    return FineTuner(RowModel.build(base, schema), rows[16:], rows[:16], TUNING, 0)


def test_fine_tuning(base: BaseConfig, tmp_path: Path) -> None:
    with on_cpu():
        cpu = tuner(base)
    gpu, second = tuner(base), tuner(base)
    assert gpu.model.device.type == GPU
    expected, found = cpu.epoch(), gpu.epoch()
    for key in ("loss", "loss_validation"):
        assert found[key] == pytest.approx(expected[key], rel=0.1), key
    gpu.save(tmp_path / "kept")
    second.load(tmp_path / "kept")
    whole, resumed = gpu.epoch(), second.epoch()
    for key in ("loss", "loss_validation"):
        assert resumed[key] == pytest.approx(whole[key], rel=1e-2), key
    while not gpu.finished:
        gpu.epoch()
    gpu.restore_best()
    assert min(float(entry["loss_validation"] or 0) for entry in gpu.history) < float(found["loss_validation"] or 0)
    gpu.model.save(tmp_path / "model")
    again = RowModel.load(tmp_path / "model")
    assert again.device.type == GPU
    drawn = sample_rows(gpu.model, 20, {}, (1,), 16)
    assert sample_rows(again, 20, {}, (1,), 16) == drawn
    assert sample_rows(gpu.model, 20, {}, (2,), 16) != drawn


def test_rows_are_valid_and_obey(base: BaseConfig) -> None:
    model = tuner(base).model
    schema = model.language.schema
    city = schema.names.index("city")
    frame = schema.frame(sample_rows(model, 40, {city: "Rome"}, (3,), 16))
    assert len(frame) == 40
    assert (frame["city"] == "Rome").all()
    assert frame["age"].between(*mixed(80)["age"].agg(["min", "max"])).all()
    with torch.no_grad(), autocast(model.device):
        ids = torch.tensor([[0, 2, 3]], device=model.device)
        assert torch.isfinite(model.model(input_ids=ids).logits).all()


def test_the_discriminator(judge: DiscriminatorConfig, tmp_path: Path) -> None:
    codec = RowCodec(TableSchema.of(pd.DataFrame({"day": [0, 1, 2]})))
    real, made = (0.6, 0.3, 0.1), (0.2, 0.3, 0.5)
    found = Discriminator(judge)
    assert found.device.type == GPU
    found.fit(codec, days(real, 600, 0), days(made, 600, 1), 0)
    auc = found.calibrate(codec, days(real, 300, 2), days(made, 900, 3), 0)
    pairs = [(p * q, i, j) for i, p in enumerate(real) for j, q in enumerate(made)]
    best = sum(weight * (1.0 if i < j else 0.5 if i == j else 0.0) for weight, i, j in pairs)
    assert auc == pytest.approx(best, abs=0.05)
    texts = [f"day is {day}" for day in range(3)]
    found.save(tmp_path)
    np.testing.assert_allclose(Discriminator.load(tmp_path, judge).logits(texts), found.logits(texts), atol=1e-5)
    with on_cpu():
        cpu = Discriminator.load(tmp_path, judge)
    np.testing.assert_allclose(cpu.logits(texts), found.logits(texts), atol=0.1)


def test_the_policy_of_rows(base: BaseConfig, judge: DiscriminatorConfig, tmp_path: Path) -> None:
    model = tuner(base).model
    trainer = row_trainer(model, DiscriminatorReward(Discriminator(judge), 3.0), ADVERSARIAL, 0)
    second = row_trainer(model, DiscriminatorReward(Discriminator(judge), 3.0), ADVERSARIAL, 0)
    assert trainer.policy.device.type == GPU
    metrics = trainer.step()
    assert metrics["ended"] == 1.0
    assert all(value is None or np.isfinite(value) for value in metrics.values())
    trainer.save(tmp_path / "checkpoint")
    second.load(tmp_path / "checkpoint")
    assert second.step()["length"] == pytest.approx(trainer.step()["length"], rel=0.05)
    assert len(sample_rows(merged(model, tmp_path / "checkpoint"), 8, {}, (0,), 8)) == 8


def test_the_generator_as_a_whole(base: BaseConfig, judge: DiscriminatorConfig) -> None:
    config = GeneratorConfig(
        base=base, fine_tuning=TUNING, discriminator=judge, adversarial=ADVERSARIAL, batch_size=32, validation=0.2
    )
    table = mixed(80)
    generator = TabularGenerator(config).fit(table, "label")
    assert generator.learned_ is not None
    assert generator.learned_.models
    rows = generator.sample(24, seed=1)
    assert rows.columns.tolist() == table.columns.tolist()
    assert rows.dtypes.tolist() == table.dtypes.tolist()
