"""The aggregator learns the answers alone, stops in time, and leaves base and agents as they were."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from lm_models import CHAT, save_tiny_model, tiny_tokeniser
from transformers import LlamaConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from consilience.errors import UserError
from consilience.ppo.policy import Policy
from consilience.ppo.settings import LoraSettings
from consilience.theories import VALUE_NAMES
from consilience.values.agents import Agents
from consilience.values.aggregator import aggregate_answers, build_sft_trainer, losses
from consilience.values.aggregator_data import IGNORED, agents_wanted, build_examples, by_question
from consilience.values.answer_settings import AGGREGATOR, BASE, AnswerConfig
from consilience.values.base import BaseConfig, load_own
from consilience.values.profile import parse_profile
from consilience.values.questions import Question
from consilience.values.sft_settings import SftSettings

END = 2
TOKENISER = tiny_tokeniser()
ANSWERS = {f"q{k}": {name: f"Mind {name}." for name in VALUE_NAMES} for k in range(8)}


def question(k: int, reference: str | None = "Yes.", **weights: float) -> Question:
    return Question(f"q{k}", f"May I take {k} of them?", "train", reference, parse_profile(weights, "test"))


def test_the_loss_is_on_the_answer_alone() -> None:
    (example,) = build_examples(TOKENISER, "dynamic", [question(1, care=1)], ANSWERS, END, 1_000, 50)
    target = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != IGNORED]
    assert TOKENISER.decode(target) == "Yes.<|end|>"
    assert example.input_ids[-len(target) :] == target
    prompt = TOKENISER.decode(example.input_ids[: -len(target)])
    assert "care: Mind care." in prompt
    assert "loyalty" not in prompt
    assert prompt.endswith("Question: May I take 1 of them?<|end|>\n<|start|>assistant\n")


def test_long_examples_are_cut_and_questions_without_reference_left_out() -> None:
    questions = [question(1, "word " * 200, care=1), question(2, None, care=1), question(3, care=1)]
    answers = {**ANSWERS, "q3": {"care": "Because. " * 500}}
    long, other = build_examples(TOKENISER, "dynamic", questions, answers, END, 400, 50)
    assert sum(label != IGNORED for label in long.labels) == 50
    assert long.labels[-1] != END, "an answer that was cut has no end to learn"
    assert len(other.input_ids) == 400
    assert other.labels[-1] == END
    with pytest.raises(UserError, match="questions: none with a reference"):
        build_examples(TOKENISER, "dynamic", [question(1, None)], ANSWERS, END, 400, 50)


def test_agents_that_a_context_needs_must_be_there() -> None:
    agents_wanted("dynamic", [question(1, care=1)], ["care"])
    with pytest.raises(UserError, match="agents: none for loyalty, which context 'dynamic' needs"):
        agents_wanted("dynamic", [question(1, care=1, loyalty=0.1)], ["care"])
    with pytest.raises(UserError, match="agents: none for authority, fairness, loyalty, sanctity"):
        agents_wanted("full", [question(1, care=1)], ["care"])


def test_losses_are_read_from_the_log() -> None:
    log = [
        {"eval_loss": 0.5, "step": 0},
        {"loss": 4.0, "step": 1},
        {"eval_loss": 2.0, "step": 1},
        {"loss": 3.0, "step": 2},
        {"loss": 1.0, "step": 3},
        {"eval_loss": 2.5, "step": 3},
        {"train_loss": 9.0, "step": 3},
    ]
    assert losses(log) == {
        "loss_train": 2.0,
        "loss_validation": 2.0,
        "loss_validation_before": 0.5,
        "steps": 3,
        "best_step": 1,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3}, "not a multiple of microbatch_size 2"),
        ({"evaluate_every": 50}, "evaluate_every 50: more than steps 12, so never"),
        ({"max_answer_tokens": 800}, "max_answer_tokens 800: more than half of max_tokens"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**change)


def settings(**change: int) -> SftSettings:
    sizes = {"steps": 12, "batch_size": 4, "microbatch_size": 2, "evaluate_every": 3, "patience": 2, **change}
    return SftSettings(lora=LoraSettings(rank=8, alpha=16), learning_rate=5e-3, **sizes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseConfig:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        source = save_tiny_model(tmp_path_factory.mktemp("base"), LlamaConfig, CHAT)
        yield BaseConfig(source=source, dtype="float32")


def test_tuning_lowers_the_loss_and_serves_beside_the_agents(base: BaseConfig, tmp_path: Path) -> None:
    model = load_own(base)
    before = {name: weights.clone() for name, weights in model.model.named_parameters()}
    train, validation = (
        build_examples(model.tokeniser, "dynamic", [question(k, care=1) for k in part], ANSWERS, END, 600, 50)
        for part in (range(6), range(6, 8))
    )
    trainer = build_sft_trainer(model, train, validation, settings(steps=40, evaluate_every=10), tmp_path / "sft")
    trainer.train()
    found = losses(trainer.state.log_history)
    assert found["loss_validation"] < found["loss_validation_before"] / 2
    assert found["best_step"] in (10, 20, 30, 40)
    for name, weights in model.model.named_parameters():
        kept = name.replace(".base_layer", "")
        if kept in before:
            assert torch.equal(weights, before[kept]), f"{name} was changed"
    assert sum("lora_A" in name for name, _ in model.model.named_parameters()) == 3 * 7, "all linear modules"

    trainer.model.save_pretrained(tmp_path / AGGREGATOR, save_embedding_layers=False)
    agent = load_own(base)
    Policy(agent.model, agent.tokeniser, LoraSettings(rank=4, alpha=8)).save(tmp_path / "care")
    agents = Agents(load_own(base), {"care": tmp_path / "care", AGGREGATOR: tmp_path / AGGREGATOR})
    profile = parse_profile({"care": 1}, "test")
    asked = question(1).text
    short = AnswerConfig(max_new_tokens=6)
    tuned, untuned = (
        aggregate_answers(agents, "dynamic", [asked], [profile], [ANSWERS["q1"]], short, name)
        for name in (AGGREGATOR, BASE)
    )
    assert tuned == ["Yes."] != untuned


def test_tuning_stops_when_validation_no_longer_improves(base: BaseConfig, tmp_path: Path) -> None:
    """Validated on other answers than it is taught, it gets worse and ends before its steps are over."""
    model = load_own(base)
    taught = build_examples(model.tokeniser, "dynamic", [question(k, care=1) for k in range(6)], ANSWERS, END, 600, 50)
    other = build_examples(
        model.tokeniser, "dynamic", [question(k, "Never in my life!", care=1) for k in range(2)], ANSWERS, END, 600, 50
    )
    trainer = build_sft_trainer(model, taught, other, settings(steps=60, evaluate_every=3, patience=1), tmp_path)
    trainer.train()
    found = losses(trainer.state.log_history)
    assert found["best_step"] < found["steps"] < 60


class Interrupt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("validations", [0, 1], ids=["at its best", "with patience spent"])
def test_a_resumed_tuning_repeats_the_numbers_of_an_uninterrupted_one(
    base: BaseConfig, tmp_path: Path, validations: int
) -> None:
    """Whatever numbers have been drawn in the process before."""

    def trainer(name: str, *callbacks: TrainerCallback, resumed: bool = False) -> Any:
        model = load_own(base)
        taught, other = (
            build_examples(model.tokeniser, "dynamic", [question(k, text, care=1) for k in part], ANSWERS, END, 600, 50)
            for text, part in (("Yes.", range(6)), ("Never in my life!", range(2)))
        )
        chosen = settings(steps=30, evaluate_every=3, patience=2)
        torch.rand(len(name))
        return build_sft_trainer(model, taught, other, chosen, tmp_path / name, callbacks=callbacks, resumed=resumed)

    whole = trainer("whole")
    whole.train()
    last = losses(whole.state.log_history)["best_step"] + 3 * validations
    with pytest.raises(KeyboardInterrupt):
        trainer("parts", Interrupt(last + 2)).train()
    parts = trainer("parts", resumed=True)
    parts.train(resume_from_checkpoint=str(tmp_path / f"parts/checkpoint-{last}"))
    assert losses(parts.state.log_history) == losses(whole.state.log_history)
    assert last < whole.state.global_step < 30, "stopped early, after the interruption"


def test_an_answers_table_is_read_by_question() -> None:
    table = pa.table({"question_id": ["a", "a", "b"], "system": ["care", "loyalty", "care"], "text": ["x", None, "y"]})
    assert by_question(table) == {"a": {"care": "x", "loyalty": None}, "b": {"care": "y"}}
