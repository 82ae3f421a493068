"""Discriminator, policy and their rounds: what each finds where the answer is known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lm_models import save_tiny_model
from tabular_tables import judge_by_few_trees
from transformers import LlamaConfig
from value_models import save_tiny_encoder, without_weights

from consilience.ppo.settings import LoraSettings, PPOConfig
from consilience.tabular.adversarial import Contest, Rows, learn
from consilience.tabular.codec import RowCodec
from consilience.tabular.discriminator import Discriminator
from consilience.tabular.fine_tuning import FineTuner
from consilience.tabular.generator import TabularGenerator
from consilience.tabular.row_model import RowModel
from consilience.tabular.row_policy import merged, row_trainer
from consilience.tabular.sampling import sample_rows
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import AdversarialConfig, DiscriminatorConfig, FineTuneConfig, GeneratorConfig
from consilience.values.base import BaseConfig
from consilience.values.settings import EncoderConfig

PPO = PPOConfig(
    updates=30,
    batch_size=128,
    minibatch_size=64,
    microbatch_size=128,
    generation_batch_size=128,
    epochs=2,
    learning_rate=2e-3,
    gae_lambda=1.0,
    kl_coef=1.0,
)
ADVERSARIAL = AdversarialConfig(rounds=2, lora=LoraSettings(rank=4, alpha=8), ppo=PPO)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseConfig:
    return BaseConfig(source=save_tiny_model(tmp_path_factory.mktemp("tiny"), LlamaConfig))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> DiscriminatorConfig:
    encoder = EncoderConfig(source=save_tiny_encoder(tmp_path_factory.mktemp("encoder")), max_tokens=32)
    return DiscriminatorConfig(encoder=encoder, epochs=4, learning_rate=3e-3)


@pytest.fixture(autouse=True)
def _quick_and_apart(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
    judge_by_few_trees(monkeypatch)


def days(shares: Sequence[float], n: int, seed: int) -> Rows:
    return [[int(day)] for day in np.random.default_rng(seed).choice(3, size=n, p=shares)]


def test_the_discriminator_finds_the_density_ratio(judge: DiscriminatorConfig, tmp_path: Path) -> None:
    codec = RowCodec(TableSchema.of(pd.DataFrame({"day": [0, 1, 2]})))
    real, made = (0.6, 0.3, 0.1), (0.2, 0.3, 0.5)
    found = Discriminator(judge)
    found.fit(codec, days(real, 600, 0), days(made, 600, 1), 0)
    auc = found.calibrate(codec, days(real, 300, 2), days(made, 900, 3), 0)
    pairs = [(p * q, i, j) for i, p in enumerate(real) for j, q in enumerate(made)]
    best = sum(weight * (1.0 if i < j else 0.5 if i == j else 0.0) for weight, i, j in pairs)
    assert auc == pytest.approx(best, abs=0.05)
    texts = [f"day is {day}" for day in range(3)]
    assert found.logits(texts) == pytest.approx(np.log(np.array(real) / made), abs=0.4)
    found.save(tmp_path)
    assert Discriminator.load(tmp_path, judge).logits(texts) == pytest.approx(found.logits(texts), abs=1e-5)


def test_a_discriminator_that_knows_nothing_rewards_nothing(judge: DiscriminatorConfig) -> None:
    codec = RowCodec(TableSchema.of(pd.DataFrame({"day": [0, 1, 2]})))
    shares = (0.2, 0.3, 0.5)
    found = Discriminator(judge)
    found.fit(codec, days(shares, 200, 0), days(shares, 200, 1), 0)
    assert found.calibrate(codec, days(shares, 300, 2), days(shares, 300, 3), 0) == pytest.approx(0.5, abs=0.08)
    assert np.abs(found.logits([f"day is {day}" for day in range(3)])).max() < 0.5


@pytest.mark.parametrize(("real", "made"), [(7, 10), (7, 35), (40, 200)], ids=["uneven", "a multiple", "more"])
def test_every_row_that_it_is_judged_by_counts_once_and_equal_rows_are_ties(
    judge: DiscriminatorConfig, real: int, made: int
) -> None:
    """The rounding of a text in batches of another size sets no two equal rows apart."""
    codec = RowCodec(TableSchema.of(pd.DataFrame({"day": [0, 1, 2]})))
    found = Discriminator(judge)
    found.fit(codec, days((0.6, 0.3, 0.1), 100, 0), days((0.2, 0.3, 0.5), 100, 1), 0)
    theirs, ours = days((0.2, 0.3, 0.5), real, 2), days((0.2, 0.3, 0.5), made, 3)
    auc = found.calibrate(codec, theirs, ours, 0)
    rank = found.logits([f"day is {day}" for day in range(3)])
    pairs = [(rank[a] > rank[b]) + 0.5 * (a == b) for (a,) in theirs for (b,) in ours]  # type: ignore[index]
    assert auc == pytest.approx(np.mean(pairs), abs=1e-9)


def test_a_discriminator_depends_on_nothing_drawn_before(judge: DiscriminatorConfig, tmp_path: Path) -> None:
    """Also where the encoder comes without a pooler."""
    source = without_weights(save_tiny_encoder(tmp_path), "pooler")
    bare = judge.model_copy(update={"encoder": judge.encoder.model_copy(update={"source": source})})
    codec = RowCodec(TableSchema.of(pd.DataFrame({"day": [0, 1, 2]})))
    states = []
    for drawn in (3, 4):
        torch.rand(drawn)
        found = Discriminator(bare)
        found.fit(codec, days((0.6, 0.3, 0.1), 20, 0), days((0.2, 0.3, 0.5), 20, 1), 0)
        states.append(found.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_ppo_moves_the_rows_to_the_data(base: BaseConfig, tmp_path: Path) -> None:
    """pi* is proportional to pi_ref exp(reward / kl_coef): with reward log p_data / pi_ref and price 1 it is p_data."""
    schema = TableSchema.of(pd.DataFrame({"x": ["a", "b"], "same": ["s", "s"]}))
    model = RowModel.build(base, schema)
    tuner = FineTuner(model, [["a", "s"], ["b", "s"]] * 16, [], FineTuneConfig(epochs=6, learning_rate=3e-3), 0)
    while not tuner.finished:
        tuner.epoch()

    def share(of: RowModel) -> float:
        return float(np.mean([row[0] == "a" for row in sample_rows(of, 2000, {}, (0,), 1000)]))

    assert share(model) == pytest.approx(0.5, abs=0.1)
    wanted = {"x is a, same is s": np.log(0.8 / 0.5), "x is b, same is s": np.log(0.2 / 0.5)}
    trainer = row_trainer(model, lambda texts: [wanted[text] for text in texts], ADVERSARIAL, 0)
    while trainer.update < trainer.config.updates:
        metrics = trainer.step()
    assert metrics["ended"] == 1.0
    trainer.save(tmp_path / "checkpoint")
    assert share(merged(model, tmp_path / "checkpoint")) == pytest.approx(0.8, abs=0.08)


FINE_TUNED = Path("fine-tuned")


class Steps:
    """The rows of the model of a round have the shares that `law` gives."""

    def __init__(self, law: list[tuple[float, float]], aucs: list[float]) -> None:
        self.law, self.aucs = law, aucs

    def fine_tune(self, train: Rows, held_out: Rows, folder: Path) -> None:
        self.train, self.held_out = train, held_out

    def sample(self, model: Path, n: int, name: str) -> Rows:
        share, agree = self.law[number(model)]
        random = np.random.default_rng(0 if name else 1)
        x = np.where(random.random(n) < share, "a", "b")
        same = random.random(n) < agree
        return [
            [str(x), int((x == "a") == bool(s)), int(v)]
            for x, s, v in zip(x, same, random.integers(0, 10**6, n), strict=True)
        ]

    def discriminate(self, rows: Contest, folder: Path) -> float:
        self.contest = rows
        return self.aucs[number(folder)]

    def improve(self, model: Path, discriminator: Path, folder: Path) -> list[dict[str, float | None]]:
        assert number(model) == number(discriminator) == number(folder) - 1
        return [{"reward": 0.5, "kl": 0.1}]


def number(folder: Path) -> int:
    return 0 if folder.name == FINE_TUNED.name else int(folder.name.split("-")[1])


LAW = (0.5, 0.95)


@pytest.mark.parametrize(
    ("law", "aucs", "best", "reason"),
    [
        ([LAW], [0.51], 0, "cannot tell: its AUC is 0.510"),
        ([LAW] * 3, [0.9, 0.8, 0.7], 2, "all rounds are done"),
        ([LAW, LAW, LAW], [0.9, 0.52], 1, "cannot tell"),
        ([LAW, LAW, (0.5, 0.5)], [0.9, 0.8], 1, "utility on the validation rows fell"),
        ([LAW, (1.0, 0.95)], [0.9], 0, "fell"),
    ],
)
def test_rounds_end(law: list[tuple[float, float]], aucs: list[float], best: int, reason: str) -> None:
    schema = TableSchema.of(pd.DataFrame({"x": ["a", "b"], "y": [1, 0], "noise": [0, 10**6]}), "y")
    rows = Steps([LAW], []).sample(FINE_TUNED, 300, "")
    found = learn(rows, schema, 0.3, ADVERSARIAL, 0, Steps(law, aucs), Path("models"))
    assert (found.best, number(found.models[found.best])) == (best, best)
    assert {model.parent for model in found.models} == {Path("models")}
    assert reason in found.reason
    assert [each.number for each in found.rounds] == list(range(len(found.rounds)))


def test_mode_collapse_and_copies_end_the_rounds() -> None:
    schema = TableSchema.of(pd.DataFrame({"x": ["a", "b"], "y": [1, 0], "noise": [0, 10**6]}))
    rows = Steps([LAW], []).sample(FINE_TUNED, 300, "")
    collapsed = learn(rows, schema, 0.3, ADVERSARIAL, 0, Steps([LAW, (1.0, 0.95)], [0.9]), Path("models"))
    assert (collapsed.best, collapsed.reason) == (0, "the coverage of categories fell from 1.000 to 0.500")

    class Copycat(Steps):
        def sample(self, model: Path, n: int, name: str) -> Rows:
            return super().sample(model, n, name) if model.name == FINE_TUNED.name else (self.train * 3)[:n]

    copied = learn(rows, schema, 0.3, ADVERSARIAL, 0, Copycat([LAW], [0.9]), Path("models"))
    assert copied.best == 0
    assert copied.reason == "copies of training rows rose from 0.000 to 1.000"
    assert copied.rounds[1].exact_copies == 1.0


def test_rows_that_teach_nothing_at_all_end_the_rounds() -> None:
    """Every new row lacks the target: no learner can be trained, and utility is not a number."""

    class Silent(Steps):
        def sample(self, model: Path, n: int, name: str) -> Rows:
            rows = super().sample(FINE_TUNED, n, name)
            return rows if model.name == FINE_TUNED.name else [[x, None, noise] for x, _, noise in rows]

    schema = TableSchema.of(pd.DataFrame({"x": ["a", "b", "a"], "y": [1.0, 0.0, None], "noise": [0, 10**6, 5]}), "y")
    rows = Steps([LAW], []).sample(FINE_TUNED, 300, "")
    found = learn(rows, schema, 0.3, ADVERSARIAL, 0, Silent([LAW], [0.9, 0.9, 0.9]), Path("models"))
    assert found.best == 0
    assert "utility on the validation rows fell" in found.reason


def test_validation_rows_teach_nobody() -> None:
    schema = TableSchema.of(pd.DataFrame({"x": ["a", "b"], "y": [1, 0], "noise": [0, 10**6]}), "y")
    rows = Steps([LAW], []).sample(FINE_TUNED, 300, "")
    steps = Steps([LAW], [0.5])
    learn(rows, schema, 0.3, ADVERSARIAL, 0, steps, Path("models"))
    assert (len(steps.train), len(steps.held_out)) == (210, 90)
    assert not {row[2] for row in steps.train} & {row[2] for row in steps.held_out}
    assert steps.contest.real == steps.train
    assert steps.contest.held_out == steps.held_out
    assert len(steps.contest.made) == 210, "as many as there are real ones"
    assert not {row[2] for row in steps.contest.made} & {row[2] for row in steps.contest.judged}


def test_the_whole_of_it(base: BaseConfig, judge: DiscriminatorConfig) -> None:
    random = np.random.default_rng(0)
    day = random.integers(0, 3, 60)
    table = pd.DataFrame({"day": day, "river": np.where(day == 0, "left", "kept"), "follows": (day > 1).astype(int)})
    adversarial = AdversarialConfig(
        rounds=1, auc=0.5, lora=ADVERSARIAL.lora, ppo=PPO.model_copy(update={"updates": 1, "epochs": 1})
    )
    config = GeneratorConfig(
        base=base,
        fine_tuning=FineTuneConfig(epochs=2, learning_rate=3e-3),
        discriminator=judge,
        adversarial=adversarial,
    )
    generator = TabularGenerator(config).fit(table, "follows")
    learned = generator.learned_
    assert learned is not None
    assert 1 <= len(learned.rounds) <= 2
    assert len(generator.sample(9)) == 9
    again = TabularGenerator(config).fit(table, "follows")
    pd.testing.assert_frame_equal(again.sample(9), generator.sample(9))
