"""Replies that are followed are the replies that are given whole, row by row, whatever stands beside them."""

from pathlib import Path
from typing import Any

import pytest
from lm_models import save_tiny_model
from peft import LoraConfig, TaskType, get_peft_model
from serve_models import save_tiny_runs
from transformers import GPT2Config

from consilience.values.agents import BASE
from consilience.values.answer_settings import AnswerConfig
from consilience.values.base import BaseConfig, load_own
from consilience.values.prompts import agent_prompt
from consilience.values.saved import read_adapters
from consilience.values.streaming import StreamingAgents, Turn, open_streaming

QUESTIONS = ["May I keep it?", "I lied to my neighbour about the leak. Was that right?", "No?"]
NAMES = ["care", "loyalty", BASE]


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> StreamingAgents:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("runs")
        save_tiny_runs(folder, ("care", "loyalty"))
        return open_streaming(read_adapters(folder / "agents"))


def turns(agents: StreamingAgents, *lengths: int, temperature: float = 0.0) -> list[Turn]:
    prompts = [agent_prompt(agents.model.tokeniser, question, None) for question in QUESTIONS]
    return [
        Turn(prompt, name, length, temperature) for prompt, name, length in zip(prompts, NAMES, lengths, strict=True)
    ]


def followed(agents: StreamingAgents, asked: list[Turn], given_up_after: int | None = None) -> list[list[str | None]]:
    steps: list[list[str | None]] = []

    def heard(pieces: list[str | None]) -> None:
        steps.append(pieces)
        if given_up_after == len(steps):
            asked[0].given_up = True

    agents.stream(asked, heard)
    return steps


def said(steps: list[list[str | None]], row: int) -> str:
    return "".join(step[row] or "" for step in steps)


def test_the_pieces_make_the_whole_reply(agents: StreamingAgents) -> None:
    asked = turns(agents, 24, 24, 24)
    steps = followed(agents, asked)
    assert [said(steps, row) for row in range(3)] == agents.answer(QUESTIONS, NAMES, AnswerConfig(max_new_tokens=24))
    assert all(turn.ended in ("stop", "length") and 1 <= turn.tokens <= 24 for turn in asked)


def test_every_reply_has_its_own_length(agents: StreamingAgents) -> None:
    asked = turns(agents, 3, 24, 9)
    steps = followed(agents, asked)
    long = turns(agents, 24, 24, 24)
    whole = followed(agents, long)
    for row, (short, full) in enumerate(zip(asked, long, strict=True)):
        assert short.tokens == min(short.max_new_tokens, full.tokens)
        assert said(whole, row).startswith(said(steps, row).rstrip("\ufffd"))
        assert all(step[row] is None for step in steps[short.tokens :]), "who has ended is silent"


def test_a_reply_that_is_given_up_ends_and_the_others_go_on(agents: StreamingAgents) -> None:
    asked = turns(agents, 24, 24, 24)
    steps = followed(agents, asked, given_up_after=2)
    assert asked[0].ended == "given up"
    assert asked[0].tokens == 3
    assert said(steps, 1) == agents.answer([QUESTIONS[1]], [NAMES[1]], AnswerConfig(max_new_tokens=24))[0]


def test_cold_rows_stay_cold_beside_warm_ones(agents: StreamingAgents) -> None:
    asked = turns(agents, 24, 24, 24)
    asked[1].temperature = 1.5
    steps = followed(agents, asked)
    for row in (0, 2):
        assert said(steps, row) == agents.answer([QUESTIONS[row]], [NAMES[row]], AnswerConfig(max_new_tokens=24))[0]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_a_long_prompt_beside_a_long_reply_fits_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fits with its own; together they would run out of learned positions."""
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))
    source = save_tiny_model(tmp_path / "base", GPT2Config, max_position_embeddings=64, tie_word_embeddings=False)
    base = BaseConfig(source=source, dtype="float32")
    lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load_own(base).model, lora).save_pretrained(tmp_path / "care")
    agents = StreamingAgents(load_own(base), {"care": tmp_path / "care"})
    agents._ends = [len(agents.model.tokeniser) + 1]  # no reply ends by itself

    def asked() -> list[Turn]:
        lengths = ((58, 6), (4, 60), (10, 54))
        return [Turn([5 + k % 40 for k in range(prompt)], "care", reply) for prompt, reply in lengths]

    together, alone = asked(), asked()
    steps = followed(agents, together)
    assert [(turn.ended, turn.tokens) for turn in together] == [("length", 6), ("length", 60), ("length", 54)]
    for row, turn in enumerate(alone):
        assert said(steps, row) == said(followed(agents, [turn]), 0)
    assert steps[0][1:] == ["", ""], "the others wait"
    assert steps[-1][0] is None, "who has ended is silent"


class Rewriting:
    """Decodes to what `texts` says after so many tokens."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def decode(self, ids: list[int], **options: Any) -> str:
        return self.texts[len(ids) - 1]


def test_a_tokeniser_that_writes_anew_loses_nothing() -> None:
    turn, tokeniser = Turn([1], BASE, 4), Rewriting("do", "do n", "don't", "don't go")
    pieces = [turn.hear(tokeniser, [0] * length) for length in (1, 2, 3)]  # type: ignore[arg-type]
    assert pieces == ["do", " n", ""]
    turn.ended = "stop"
    assert turn.hear(tokeniser, [0] * 4) == "n't go"  # type: ignore[arg-type]


def test_an_unknown_agent(agents: StreamingAgents) -> None:
    with pytest.raises(ValueError, match="unknown agent 'greed'"):
        agents.stream([Turn([1], "greed", 3)], lambda pieces: None)
