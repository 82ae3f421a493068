"""Replies that are followed are the replies that are given whole, row by row, whatever stands beside them."""

import pytest
from serve_models import save_tiny_runs

from consilience.values.agents import BASE
from consilience.values.answer_settings import AnswerConfig
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


def test_an_unknown_agent(agents: StreamingAgents) -> None:
    with pytest.raises(ValueError, match="unknown agent 'greed'"):
        agents.stream([Turn([1], "greed", 3)], lambda pieces: None)
