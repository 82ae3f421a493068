"""The generator of rows on a tiny language model: learns, samples valid rows, obeys conditions, repeats by its seed."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lm_models import save_tiny_model
from safetensors.torch import load_file, save_file
from tabular_tables import mixed
from transformers import GPT2Config, LlamaConfig, PreTrainedConfig

from consilience.errors import UserError
from consilience.ppo.rollout import generate, pad_left
from consilience.ppo.settings import SamplingConfig
from consilience.tabular.adversarial import ROUND, split_rows
from consilience.tabular.fine_tuning import FineTuner
from consilience.tabular.generator import TabularGenerator
from consilience.tabular.language import BEGIN, END, RowConstraint
from consilience.tabular.row_model import RowModel
from consilience.tabular.sampling import _Batch, sample_rows
from consilience.tabular.schema import TableSchema
from consilience.tabular.settings import FineTuneConfig, GeneratorConfig
from consilience.values.base import BaseConfig


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseConfig:
    return BaseConfig(source=save_tiny_model(tmp_path_factory.mktemp("tiny"), LlamaConfig))


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))


def config(base: BaseConfig, epochs: int = 2, **settings: Any) -> GeneratorConfig:
    tuning = FineTuneConfig(epochs=epochs, learning_rate=3e-3, batch_size=16)
    return GeneratorConfig(base=base, fine_tuning=tuning, adversarial=None, batch_size=16, **settings)


@pytest.fixture(scope="module")
def pair_table() -> pd.DataFrame:
    """b follows a, n is their number."""
    a = np.random.default_rng(0).choice(["left", "right"], size=120, p=[0.25, 0.75])
    return pd.DataFrame({"a": a, "b": np.where(a == "left", "no", "yes"), "n": np.where(a == "left", 10, 31)})


def test_it_learns_what_goes_with_what(base: BaseConfig, pair_table: pd.DataFrame) -> None:
    found = TabularGenerator(config(base, epochs=12)).fit(pair_table).sample(2000, seed=1)
    agree = (found["a"] == "left") == (found["b"] == "no")
    assert agree.mean() > 0.95
    assert ((found["n"] == 10) == (found["a"] == "left")).mean() > 0.9
    assert 0.15 < (found["a"] == "left").mean() < 0.37


def test_rows_are_valid_exact_in_number_and_repeatable(base: BaseConfig, tmp_path: Path) -> None:
    table = mixed(80)
    generator = TabularGenerator(config(base)).fit(table, "label")
    rows = generator.sample(37, seed=3)
    assert len(rows) == 37
    assert rows.dtypes.equals(table.dtypes)
    schema = TableSchema.of(table)
    for column in schema.columns:
        seen = rows[column.name].dropna()
        assert column.missing or len(seen) == 37
        if column.kind == "category":
            assert set(seen) <= set(column.categories)
        elif column.kind in ("integer", "float"):
            assert seen.between(column.low, column.high).all()
            assert (seen.astype(float).round(column.decimals or 0) == seen).all()
    assert rows["since"].dropna().between(table["since"].min(), table["since"].max()).all()
    pd.testing.assert_frame_equal(generator.sample(37, seed=3), rows)
    assert not generator.sample(37, seed=4).equals(rows)
    assert generator.model_ is not None
    judged = sample_rows(generator.model_, 16, {}, (3, ROUND), 16)
    assert not any(schema.rows(rows)[start : start + 16] == judged for start in (0, 16)), "not those the rounds judge"
    assert generator.sample(0).dtypes.equals(table.dtypes)
    generator.save(tmp_path / "generator")
    again = TabularGenerator.load(tmp_path / "generator", config(base))
    pd.testing.assert_frame_equal(again.sample(37, seed=3), rows)
    with pytest.raises(UserError, match="exists already"):
        generator.save(tmp_path / "generator")
    conditions = {"city": 'Überlingen, "B" is', "age": 40, "since": pd.Timestamp("2021-05-01"), "visits": None}
    given = generator.sample(20, conditions)
    assert (given["city"] == conditions["city"]).all()
    assert (given["age"] == 40).all()
    assert (given["since"] == conditions["since"]).all()
    assert given["visits"].isna().all()
    for wrong, message in [
        ({"height": 1}, "condition 'height': no such column"),
        ({"age": 200}, "condition 'age': 200; expected 18 to"),
        ({"age": None}, "condition 'age': None"),
        ({"age": 40.5}, "column 'age': 40.5; expected a value of kind integer"),
        ({"income": 1200.123}, "of 1 decimals"),
        ({"city": "Paris"}, "condition 'city': 'Paris'"),
        ({"since": "soon"}, "column 'since': 'soon'"),
    ]:
        with pytest.raises(UserError, match=message):
            generator.sample(1, wrong)


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"x": [1, 2, 3, 3]}),
        pd.DataFrame({"x": ["same"] * 4}),
        pd.DataFrame({"x": [1, 2, 3], "gone": [np.nan] * 3}),
        pd.DataFrame({"x": [5], "y": ["one row"], "z": [None]}),
        pd.DataFrame({f"column {place}": [place, place + 1] for place in range(200)}),
    ],
    ids=["single column", "constant", "all missing", "one row", "200 columns"],
)
def test_odd_tables(base: BaseConfig, table: pd.DataFrame) -> None:
    rows = TabularGenerator(config(base)).fit(table).sample(5)
    assert rows.dtypes.equals(table.dtypes)
    assert len(rows) == 5
    for name in table:
        seen = table[name].dropna()
        assert rows[name].isna().all() if seen.empty else rows[name].between(seen.min(), seen.max()).all()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(LlamaConfig, {"tie_word_embeddings": True}), (GPT2Config, {"tie_word_embeddings": False})],
    ids=["tied", "untied"],
)
def test_cached_keys_and_holes_change_nothing(
    tmp_path: Path, kind: type[PreTrainedConfig], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits that values are drawn from are those of the row read whole, without cache or padding."""
    monkeypatch.setattr("consilience.tabular.row_model.is_bfloat16_fast", lambda device: False)
    base = BaseConfig(source=save_tiny_model(tmp_path / "model", kind, **settings))
    table = pd.DataFrame({"a": ["x", "y", "x"], "n": [8, 9, 123], "c": [None, "x", "z"], "d": ["b", "b c", "b d"]})
    model = RowModel.build(base, TableSchema.of(table))
    batch = _Batch(model, 20, {0: model.language.encode(0, "x")}, np.random.default_rng(0))
    drawn_from: list[list[torch.Tensor]] = [[] for _ in range(20)]
    choose = batch._choose

    def watched(logits: torch.Tensor) -> list[int]:
        for row, each in enumerate(batch._options):
            if each:
                drawn_from[row].append(logits[row])
        return choose(logits)

    monkeypatch.setattr(batch, "_choose", watched)
    assert len({tuple(order) for order in batch._orders}) > 1  # a row's order is its own
    for words, logits in zip(batch.draw(), drawn_from, strict=True):
        tokens = [BEGIN, *model.language.write(words, list(words))]
        told = [place for place, token in enumerate(tokens) if model.language.is_value(token)][len(words[0]) :]
        with torch.no_grad():
            whole = model.model(input_ids=torch.tensor([tokens])).logits[0]
        torch.testing.assert_close(torch.stack(logits), whole[torch.tensor(told) - 1], rtol=1e-3, atol=1e-3)


def test_ppo_generates_from_the_same_language(base: BaseConfig) -> None:
    """Rows of constrained `generate` are whole, and alike those that are sampled where the model is sure."""
    table = pd.DataFrame({"a": ["x", "y"] * 20, "b": ["no", "yes"] * 20})
    schema = TableSchema.of(table)
    tuner = FineTuner(
        RowModel.build(base, schema), schema.rows(table), [], FineTuneConfig(epochs=25, learning_rate=3e-3), 0
    )
    while not tuner.finished:
        tuner.epoch()
    model = tuner.model
    prompts, mask = pad_left([[BEGIN]] * 200, END, model.device)
    uniforms = torch.from_numpy(np.random.default_rng(1).random((200, model.language.longest)))
    sampling = SamplingConfig(max_new_tokens=model.language.longest)
    drawn = generate(model.model, prompts, mask, uniforms, sampling, RowConstraint(model.language))
    rows = [model.language.row(model.language.read(tokens)) for tokens in drawn.responses.tolist()]
    ours = sample_rows(model, 200, {}, (0,), 20)
    for each in (rows, ours):
        assert np.mean([row in (["x", "no"], ["y", "yes"]) for row in each]) > 0.9
        assert 0.25 < np.mean([row[0] == "x" for row in each]) < 0.75
    assert drawn.mask.sum(1).tolist() == [5] * 200, "two names, two values, the end"


def test_fine_tuning_resumes_as_itself(base: BaseConfig, pair_table: pd.DataFrame, tmp_path: Path) -> None:
    schema = TableSchema.of(pair_table)
    rows = schema.rows(pair_table)

    def tuner() -> FineTuner:
        tuning = FineTuneConfig(epochs=4, learning_rate=3e-3, batch_size=32)
        return FineTuner(RowModel.build(base, schema), rows[20:], rows[:20], tuning, 0)

    straight = tuner()
    for _ in range(2):
        straight.epoch()
    straight.save(tmp_path / "checkpoint")
    resumed = tuner()
    resumed.load(tmp_path / "checkpoint")
    for each in (straight, resumed):
        while not each.finished:
            each.epoch()
        each.restore_best()
    losses = [[entry["loss_validation"] for entry in each.history] for each in (straight, resumed)]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    for one, other in zip(straight.model.model.parameters(), resumed.model.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_patience_ends_the_training_and_the_best_is_kept(base: BaseConfig) -> None:
    schema = TableSchema.of(pd.DataFrame({"x": ["a", "b"]}))
    tuning = FineTuneConfig(epochs=50, patience=2, learning_rate=1e-2, batch_size=4)
    tuner = FineTuner(RowModel.build(base, schema), [["a"]] * 8, [["b"]] * 4, tuning, 0)  # the opposite is learned
    while not tuner.finished:
        tuner.epoch()
    assert (len(tuner.history), tuner.best) == (3, 1)


def test_a_base_that_is_too_small_for_a_row(tmp_path: Path) -> None:
    base = BaseConfig(source=save_tiny_model(tmp_path, LlamaConfig, max_position_embeddings=8))
    with pytest.raises(UserError, match="a row takes 14 tokens; the model's window holds 8"):
        RowModel.build(base, TableSchema.of(pd.DataFrame({f"c{k}": ["a", "b"] for k in range(6)})))


def test_a_base_without_its_head_is_refused(tmp_path: Path) -> None:
    """Its weights would be drawn at random."""
    source = save_tiny_model(tmp_path, LlamaConfig, tie_word_embeddings=False)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: x for name, x in weights.items() if name != "lm_head.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"not a causal language model, it has no lm_head\.weight"):
        RowModel.build(BaseConfig(source=source), TableSchema.of(pd.DataFrame({"x": ["a", "b"]})))


def test_nothing_to_sample_from() -> None:
    with pytest.raises(UserError, match="knows no table yet"):
        TabularGenerator().sample(1)


def test_rows_are_split_once() -> None:
    train, held_out = split_rows(200, 0.1, 0)
    assert (len(held_out), sorted(train + held_out)) == (20, list(range(200)))
    assert split_rows(49, 0.1, 0) == (list(range(49)), [])
    assert len(split_rows(50, 0.1, 0)[1]) == 10
