"""Adapters on one base: each answers as it would alone, and none leaks into another, bit by bit."""

import json
from pathlib import Path

import pytest
import torch
from lm_models import CHAT, save_tiny_model
from transformers import LlamaConfig

from consilience.errors import UserError
from consilience.ppo.policy import LoraSettings
from consilience.ppo.rollout import SamplingConfig, pad_left
from consilience.ppo.trainer import PPOConfig
from consilience.values.agent_training import AgentPlan, build_trainer, hear
from consilience.values.agents import BASE, Agents, AnswerConfig, open_agents
from consilience.values.base import BaseConfig, load_own
from consilience.values.prompts import agent_prompt
from consilience.values.saved import read_adapters, save_adapters

QUESTIONS = ["May I keep it?", "I lied to my neighbour about the leak. Was that right?", "No?"]
NAMES = ("care", "fairness", "loyalty")
SHORT = AnswerConfig(max_new_tokens=6)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseConfig:
    return BaseConfig(source=save_tiny_model(tmp_path_factory.mktemp("base"), LlamaConfig, CHAT), dtype="float32")


def plan(base: BaseConfig, **ppo: object) -> AgentPlan:
    sizes = {"batch_size": 4, "minibatch_size": 4, "microbatch_size": 2, "generation_batch_size": 2, "updates": 1}
    settings = PPOConfig(**{**sizes, "sampling": SamplingConfig(max_new_tokens=6), **ppo})
    return AgentPlan(base, LoraSettings(rank=4, alpha=8), settings)


@pytest.fixture(scope="module")
def adapters(base: BaseConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of PPOTrainer whose weights are strong enough to change what is said."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(NAMES):
        trainer = build_trainer(plan(base), QUESTIONS, len)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in trainer.policy.trainable.values():
                parameter.normal_(std=0.3)
        trainer.save(folder / name)
    return {name: folder / name for name in NAMES}


def logits(agents: Agents, names: list[str], questions: list[str]) -> torch.Tensor:
    """(b, v) logits of the first token of each answer."""
    prompts = [agent_prompt(agents.model.tokeniser, question, None) for question in questions]
    ids, mask = pad_left(prompts, 2, torch.device("cpu"))
    peft_names = ["__base__" if name == BASE else name for name in names]
    with torch.inference_mode():
        return agents._peft(input_ids=ids, attention_mask=mask.long(), adapter_names=peft_names).logits[:, -1]


def test_an_agent_is_bitwise_the_same_alone_and_among_others(base: BaseConfig, adapters: dict[str, Path]) -> None:
    together = Agents(load_own(base), adapters)
    for name in NAMES:
        alone = Agents(load_own(base), {name: adapters[name]})
        assert torch.equal(logits(alone, [name] * 3, QUESTIONS), logits(together, [name] * 3, QUESTIONS))
    assert not torch.equal(logits(together, ["care"] * 3, QUESTIONS), logits(together, ["loyalty"] * 3, QUESTIONS))


def test_the_base_is_bitwise_untouched(base: BaseConfig, adapters: dict[str, Path]) -> None:
    bare = load_own(base)
    prompts = [agent_prompt(bare.tokeniser, question, None) for question in QUESTIONS]
    ids, mask = pad_left(prompts, 2, torch.device("cpu"))
    with torch.inference_mode():
        expected = bare.model(input_ids=ids, attention_mask=mask.long()).logits[:, -1]
    agents = Agents(load_own(base), adapters)
    agents.answer(QUESTIONS, ["care", "loyalty", "fairness"], SHORT)
    assert torch.equal(logits(agents, [BASE] * 3, QUESTIONS), expected)


def test_a_row_is_bitwise_untouched_by_its_neighbours_adapters(base: BaseConfig, adapters: dict[str, Path]) -> None:
    agents = Agents(load_own(base), adapters)
    rows = [logits(agents, ["care", other, BASE], QUESTIONS) for other in ("fairness", "loyalty", BASE)]
    for row in rows[1:]:
        assert torch.equal(row[0], rows[0][0])
        assert torch.equal(row[2], rows[0][2])
        assert not torch.equal(row[1], rows[0][1])


def test_an_agent_is_the_policy_that_was_saved(base: BaseConfig, adapters: dict[str, Path]) -> None:
    trainer = build_trainer(plan(base), QUESTIONS, len)
    trainer.load(adapters["care"])
    agents = Agents(load_own(base), adapters)
    prompts = [agent_prompt(agents.model.tokeniser, question, None) for question in QUESTIONS]
    ids, mask = pad_left(prompts, 2, torch.device("cpu"))
    with torch.inference_mode():
        expected = trainer.policy.base(input_ids=ids, attention_mask=mask.long()).logits[:, -1]
    torch.testing.assert_close(logits(agents, ["care"] * 3, QUESTIONS), expected)


def test_answers_do_not_depend_on_the_batch(base: BaseConfig, adapters: dict[str, Path]) -> None:
    agents = Agents(load_own(base), adapters)
    names = ["care", "loyalty", BASE]
    together = agents.answer(QUESTIONS, names, SHORT)
    one_by_one = [agents.answer([q], [n], SHORT)[0] for q, n in zip(QUESTIONS, names, strict=True)]
    assert together == one_by_one == agents.answer(QUESTIONS, names, SHORT.model_copy(update={"batch_size": 1}))
    warm = AnswerConfig(max_new_tokens=6, temperature=1.0, seed=3)
    assert agents.answer(QUESTIONS, names, warm) == agents.answer(QUESTIONS, names, warm)


@pytest.mark.parametrize("question", ["why? " * 20_000, "我可以看她的信吗", "🤷", "?"])
def test_huge_and_foreign_questions_are_answered(base: BaseConfig, adapters: dict[str, Path], question: str) -> None:
    agents = Agents(load_own(base), adapters)
    assert isinstance(agents.answer([question], ["care"], SHORT)[0], str)


def test_an_agent_ends_where_it_ended_in_training(tmp_path: Path) -> None:
    """Also where the model names another end than its tokeniser, which closes a turn of the chat."""
    other = BaseConfig(source=save_tiny_model(tmp_path / "base", LlamaConfig, CHAT, eos_token_id=9), dtype="float32")
    trainer = build_trainer(plan(other), QUESTIONS, len)
    trainer.save(tmp_path / "care")
    agents = Agents(load_own(other), {"care": tmp_path / "care"})
    assert sorted(agents._ends) == sorted(trainer.policy.base.generation_config.eos_token_id) == [2, 9]


def test_the_models_own_generation_settings_do_not_leak_in(base: BaseConfig, adapters: dict[str, Path]) -> None:
    loaded = load_own(base)
    loaded.model.generation_config.update(repetition_penalty=50.0, no_repeat_ngram_size=1, min_new_tokens=8)
    long = AnswerConfig(max_new_tokens=24)
    names = ["care", "loyalty", BASE]
    plain = Agents(load_own(base), adapters).answer(QUESTIONS, names, long)
    assert Agents(loaded, adapters).answer(QUESTIONS, names, long) == plain


def test_mistakes_are_named(base: BaseConfig, adapters: dict[str, Path], tmp_path: Path) -> None:
    agents = Agents(load_own(base), adapters)
    with pytest.raises(UserError, match="unknown agent 'liberty'; expected one of base, care, fairness, loyalty"):
        agents.answer(["May I?"], ["liberty"], SHORT)
    with pytest.raises(UserError, match="question: empty"):
        agents.answer([" "], ["care"], SHORT)
    with pytest.raises(UserError, match="the words of a prompt alone take"):
        agents.answer(["May I?"], ["care"], AnswerConfig(max_new_tokens=1_020))
    assert agents.answer([], [], SHORT) == []
    with pytest.raises(UserError, match="no adapter can be read"):
        Agents(load_own(base), {"care": tmp_path})
    with pytest.raises(UserError, match="not a name for one"):
        Agents(load_own(base), {BASE: adapters["care"]})
    wider = BaseConfig(source=save_tiny_model(tmp_path / "wider", LlamaConfig, CHAT, hidden_size=64), dtype="float32")
    with pytest.raises(UserError, match="an adapter of another base than this"):
        Agents(load_own(wider), adapters)


def test_saved_adapters_open_on_the_base_they_were_trained_on(
    base: BaseConfig, adapters: dict[str, Path], tmp_path: Path
) -> None:
    save_adapters(tmp_path / "run", base, adapters, {})
    saved = read_adapters(tmp_path / "run")
    assert open_agents(saved).names == tuple(sorted(NAMES))
    assert saved.digest() == read_adapters(tmp_path / "run").digest()
    facts = json.loads((tmp_path / "run/adapters.json").read_text())
    (tmp_path / "run/adapters.json").write_text(json.dumps({**facts, "base_digest": "0"}))
    with pytest.raises(UserError, match="not the model that the adapters were trained on"):
        open_agents(read_adapters(tmp_path / "run"))
    (tmp_path / "run/adapters.json").write_text(json.dumps({**facts, "adapters": {**facts["adapters"], "care": "0"}}))
    with pytest.raises(UserError, match=r"care/adapter_model\.safetensors: not the weights that adapters\.json"):
        open_agents(read_adapters(tmp_path / "run"))
    (tmp_path / "run/adapters.json").write_text("[]")
    with pytest.raises(UserError, match="not a description of adapters"):
        read_adapters(tmp_path / "run")


def test_adapters_that_were_not_all_saved_are_not_described(
    base: BaseConfig, adapters: dict[str, Path], tmp_path: Path
) -> None:
    save_adapters(tmp_path, base, adapters, {})
    with pytest.raises(UserError, match="cannot be written"):
        save_adapters(tmp_path, base, {**adapters, "care": tmp_path / "nowhere"}, {})
    with pytest.raises(UserError, match="expected a finished run"):
        read_adapters(tmp_path)
    with pytest.raises(UserError, match="expected a finished run of train_agents or train_aggregator"):
        read_adapters(tmp_path)


def test_base_and_agent_are_heard_with_the_same_numbers(base: BaseConfig, adapters: dict[str, Path]) -> None:
    settings = plan(base)
    first, again, agent = (hear(settings, QUESTIONS, place, 5) for place in (None, None, adapters["care"]))
    assert first.texts == again.texts != agent.texts
    assert not first.kl.any()
    assert agent.kl.shape == agent.length.shape == (3,)
    assert (agent.kl > 0).any(), "a strong adapter leaves its base"
    assert ((first.length >= 1) & (first.length <= 6)).all()
