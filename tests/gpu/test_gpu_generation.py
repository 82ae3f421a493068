"""Answers on a GPU: in float32 the CPU's, by the model alone and by adapters side by side."""

from pathlib import Path

import numpy as np
import pytest
import torch
from devices import GPU, on_cpu, random_state
from test_lm_scoring import DILEMMAS
from test_value_agents import NAMES, QUESTIONS, SHORT, plan

from consilience.lm.generator import generate
from consilience.lm.language_model import load_model
from consilience.ppo.rollout import pad_left
from consilience.values.agent_training import build_trainer, hear
from consilience.values.agents import BASE, Agents
from consilience.values.base import BaseConfig, load_own
from consilience.values.prompts import agent_prompt
from consilience.values.streaming import StreamingAgents, Turn

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def adapters(base: BaseConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Written on the GPU, strong enough to change what is said."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(NAMES):
        trainer = build_trainer(plan(base), QUESTIONS, len)
        assert trainer.policy.device.type == GPU
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in trainer.policy.trainable.values():
                parameter.normal_(std=0.3)
        trainer.save(folder / name)
    return {name: folder / name for name in NAMES}


def first_logits(agents: Agents, names: list[str]) -> torch.Tensor:
    """(b, v) logits of the first token of each answer to `QUESTIONS`."""
    prompts = [agent_prompt(agents.model.tokeniser, question, None) for question in QUESTIONS]
    ids, mask = pad_left(prompts, 2, agents.model.model.device)
    peft_names = ["__base__" if name == BASE else name for name in names]
    with torch.inference_mode():
        return agents._peft(input_ids=ids, attention_mask=mask.long(), adapter_names=peft_names).logits[:, -1].cpu()


def test_replies_are_the_cpus(base: BaseConfig) -> None:
    with on_cpu():
        cpu = load_model.__wrapped__(base.source, None, "float32")
    gpu = load_model.__wrapped__(base.source, None, "float32")
    together = generate(gpu, DILEMMAS, system="Be brief.", max_new_tokens=6)
    assert together == generate(cpu, DILEMMAS, system="Be brief.", max_new_tokens=6)
    assert together == [generate(gpu, [text], system="Be brief.", max_new_tokens=6)[0] for text in DILEMMAS]


def test_sampling_follows_its_seed_and_leaves_the_gpus_own(base: BaseConfig) -> None:
    model = load_model.__wrapped__(base.source, None, "float32")
    state = random_state()
    first, again, other = (
        generate(model, DILEMMAS, max_new_tokens=8, temperature=1.0, top_p=0.9, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(random_state(), state)


def test_agents_answer_as_on_the_cpu(base: BaseConfig, adapters: dict[str, Path]) -> None:
    with on_cpu():
        cpu = Agents(load_own(base), adapters)
    gpu = Agents(load_own(base), adapters)
    assert gpu.model.model.device.type == GPU
    for names in (["care", "loyalty", BASE], ["fairness"] * 3, [BASE] * 3):
        torch.testing.assert_close(first_logits(gpu, names), first_logits(cpu, names), atol=1e-3, rtol=1e-3)
        assert gpu.answer(QUESTIONS, names, SHORT) == cpu.answer(QUESTIONS, names, SHORT)


def test_a_row_hardly_sees_its_neighbours_adapters(base: BaseConfig, adapters: dict[str, Path]) -> None:
    agents = Agents(load_own(base), adapters)
    mixed = first_logits(agents, ["care", "fairness", BASE])
    for row, name in enumerate(("care", "fairness", BASE)):
        torch.testing.assert_close(mixed[row], first_logits(agents, [name] * 3)[row], atol=1e-3, rtol=1e-3)
    assert torch.dist(mixed[0], first_logits(agents, ["loyalty"] * 3)[0]) > 0.1


def test_what_is_heard_is_what_the_cpu_hears(base: BaseConfig, adapters: dict[str, Path]) -> None:
    with on_cpu():
        cpu = hear(plan(base), QUESTIONS, adapters["care"], 0)
    gpu = hear(plan(base), QUESTIONS, adapters["care"], 0)
    assert gpu.texts == cpu.texts
    np.testing.assert_allclose(gpu.kl, cpu.kl, atol=1e-2, rtol=1e-2)
    np.testing.assert_array_equal(gpu.length, cpu.length)
    np.testing.assert_array_equal(gpu.ended, cpu.ended)


def test_streamed_answers_are_the_whole_ones(base: BaseConfig, adapters: dict[str, Path]) -> None:
    agents = StreamingAgents(load_own(base), adapters)
    names = ["care", "loyalty", BASE]
    prompts = [agent_prompt(agents.model.tokeniser, question, None) for question in QUESTIONS]
    turns = [Turn(prompt, name, SHORT.max_new_tokens) for prompt, name in zip(prompts, names, strict=True)]
    said = [""] * len(turns)

    def heard(pieces: list[str | None]) -> None:
        for place, piece in enumerate(pieces):
            said[place] += piece or ""

    agents.stream(turns, heard)
    assert said == agents.answer(QUESTIONS, names, SHORT)
    agents.stream([Turn(prompts[0], "care", 4, temperature=1.0), Turn(prompts[1], BASE, 2)], lambda pieces: None)
