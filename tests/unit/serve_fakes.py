"""Deployments without Serve: what a handle offers, answered in this process; and a service on them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from consilience.consensus.calibrated import fit_calibrated
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.model import ConsensusModel
from consilience.theories import THEORY_NAMES, VALUE_NAMES
from serve_app.answering import Answering
from serve_app.config import Limits
from serve_app.judging import JudgeHandle, Judging
from serve_app.models import Reply
from serve_app.routes import make_app
from serve_app.service import Service
from serve_app.tokens import hash_token

TOKEN = "a-token-for-the-tests-alone"
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


class FakeStream:
    """A streaming response of a handle."""

    def __init__(self, items: AsyncIterator[Any]) -> None:
        self._items, self.cancelled = items, False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._items

    def cancel(self) -> None:
        self.cancelled = True


class FakeResponse:
    """A response of a handle."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __await__(self) -> Any:
        return self._answer.__await__()

    def cancel(self) -> None:
        pass


@dataclass
class FakeHandle:
    """A handle on `answer` (streaming) or `judge`; `calls` and `streams` remember what was asked."""

    function: Callable[..., Any]
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    deployment_name: str = "a deployment"

    def options(self, stream: bool) -> "FakeHandle":
        return self

    @property
    def answer(self) -> "FakeHandle":
        return self

    @property
    def judge(self) -> "FakeHandle":
        return self

    def remote(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        found = self.function(*arguments)
        if not hasattr(found, "__anext__"):
            return FakeResponse(found)
        self.streams.append(FakeStream(found))
        return self.streams[-1]


async def agents_answer(question: str, names: tuple[str, ...], tokens: int, temperature: float) -> AsyncIterator[Reply]:
    for name in names:
        await asyncio.sleep(0)
        yield Reply(name, f"Mind {name}.", 0.75, prompt_tokens=10, tokens=3, seconds=0.1)


async def aggregate(
    question: str, weights: Any, answers: dict[str, Any], kind: str, tokens: int, temperature: float
) -> AsyncIterator[str | Reply]:
    text = f"Heard {', '.join(f'{n}: {a}' for n, a in sorted(answers.items())) or 'nobody'}."
    for word in text.split(" "):
        await asyncio.sleep(0)
        yield word if word == "Heard" else f" {word}"
    yield Reply("aggregator", text, prompt_tokens=20, tokens=5, seconds=0.2)


def judging(offsets: dict[str, float]) -> Callable[..., Any]:
    """Annotators that find everything as acceptable as `offsets` says."""

    async def judge(dilemma: str, theories: tuple[str, ...]) -> dict[str, Any]:
        return {name: dict.fromkeys(theories, (value, 0.9, "ok")) for name, value in offsets.items()}

    return judge


def small_consensus(annotators: int = 5, items: int = 40) -> ConsensusModel:
    """A consensus of a0, a1, ... who agree but for noise."""
    random = np.random.default_rng(0)
    truth = random.random((items, 5))
    rows = [
        {"item_id": f"i{i}", "theory": theory, "annotator": f"a{a}", "score": float(score)}
        for a in range(annotators)
        for i in range(items)
        for t, theory in enumerate(THEORY_NAMES)
        for score in [np.clip(truth[i, t] + random.normal(0, 0.1), 0, 1)]
    ]
    frame = pd.DataFrame(rows)
    model = TruncatedNormalEM().fit(frame).model_
    assert model is not None
    return replace(model, calibrated=fit_calibrated(ScoreMatrix.from_frame(frame)))


@dataclass
class Setting:
    """A service on fakes."""

    app: Any
    service: Service
    agents: FakeHandle
    aggregator: FakeHandle
    judge: FakeHandle


def make_setting(model: ConsensusModel | None = None, limits: Limits | None = None, **functions: Any) -> Setting:
    """A service whose deployments do as `functions` (agents, aggregator, judge) say."""
    agents = FakeHandle(functions.get("agents", agents_answer))
    aggregator = FakeHandle(functions.get("aggregator", aggregate))
    names = ("a0", "a1", "a2", "a3")
    judge = FakeHandle(functions.get("judge", judging(dict.fromkeys(names, 0.8))))
    missing = {} if model is not None else {"judge": "not set up: run `make demo`"}
    service = Service(
        Answering(dict.fromkeys(VALUE_NAMES, agents), aggregator),
        None if model is None else Judging(model, [JudgeHandle(judge, names)]),
        missing,
        limits or Limits(),
    )

    async def metrics() -> str:
        return "ray_consilience_tokens 1\n"

    return Setting(make_app(service, [hash_token(TOKEN)], metrics), service, agents, aggregator, judge)
