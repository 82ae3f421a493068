"""An openai annotator at the chat server, what it should find there, and what it should pay."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import USD_PER_TOKEN_IN, USD_PER_TOKEN_OUT, ChatServer, Seen, p_yes

from consilience.lm import openai_client
from consilience.lm.openai_annotator import OpenAIAnnotator, request_body
from consilience.lm.openai_scorer import OpenAIScorer
from consilience.lm.scorer import Scores
from consilience.theories import THEORIES

DILEMMAS = [f"I told my sister that {n} guests were coming when I knew that nobody would." for n in range(8)]
PRICES = {"usd_per_million_input": USD_PER_TOKEN_IN * 1e6, "usd_per_million_output": USD_PER_TOKEN_OUT * 1e6}


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    """A server, and clients that wait next to nothing between two attempts."""
    monkeypatch.setattr(openai_client, "_FIRST_WAIT", 0.01)
    with ChatServer().running() as running:
        yield running


def annotator(server: ChatServer, **more: Any) -> OpenAIAnnotator:
    values = {"annotator": "api", "kind": "openai", "base_url": server.url, "model": "mock", "timeout": 5, **more}
    return OpenAIAnnotator.model_validate({"requests_per_minute": 1e6, **values})


def score(config: OpenAIAnnotator, answers: Path, dilemmas: list[str] = DILEMMAS) -> Scores:
    return OpenAIScorer(config, answers).score(dilemmas, THEORIES)


def expected(config: OpenAIAnnotator, dilemmas: list[str] = DILEMMAS) -> np.ndarray:
    """Scores of a server that answers everything with log-probabilities."""
    return np.array(
        [
            [p_yes(request_body(config, dilemma, theory)["messages"][-1]["content"]) for theory in THEORIES]
            for dilemma in dilemmas
        ]
    )


def draw(seen: Seen) -> int:
    """A number that is the same in every run and differs between judgements."""
    return int(1e9 * p_yes(seen.question))


def assert_each_billed_once(server: ChatServer, judgements: int) -> None:
    assert len(server.billed) == judgements
    assert set(server.billed.values()) == {1}
