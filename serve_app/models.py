"""The deployments that hold models: moral agents, aggregator, judges."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve

from consilience.config import parse_config
from consilience.errors import UserError, first_line
from consilience.lm.annotators import AnnotatorConfig
from consilience.lm.scorer import Scorer, Scores
from consilience.theories import THEORIES, Theory
from consilience.values.aggregator_data import aggregator_prompt
from consilience.values.context import ContextKind
from consilience.values.profile import Profile
from consilience.values.prompts import agent_prompt
from consilience.values.saved import SavedAdapters
from serve_app.config import Batching, Engine
from serve_app.loopback import stay_on_loopback

log = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model has said, in full.

    Attributes:
        agent: which adapter.
        text: None = it said nothing, or could not.
        reward: P(the text follows the agent's value), 0..1; None where no classifier is there.
        problem: why there is no text.
        ended: "stop" or "length".
        prompt_tokens, tokens: read and written.
        seconds: from being asked to the last token.
    """

    agent: str
    text: str | None = None
    reward: float | None = None
    problem: str | None = None
    ended: str = "stop"
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0


class MoralAgents:
    """One agent or several, on one base."""

    def __init__(self, saved: SavedAdapters, rewards: Path | None, engine: Engine) -> None:
        # Here and below, because a replica needs no other deployment's imports.
        from serve_app.writer import open_writer

        stay_on_loopback()
        self._writer = open_writer(engine, saved)
        self._rewards = {name: _load_reward(rewards, name) for name in saved.adapters} if rewards else {}

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take other batch sizes."""
        self._writer.reconfigure(parse_config(Batching, user_config, "user_config of the agents"))

    async def answer(
        self, question: str, names: Sequence[str], max_new_tokens: int, temperature: float
    ) -> AsyncGenerator[Reply, None]:
        """The agents' replies, each when it is done."""
        asked = [asyncio.create_task(self._ask(question, name, max_new_tokens, temperature)) for name in names]
        try:
            for reply in asyncio.as_completed(asked):
                yield await reply
        finally:
            for task in asked:
                task.cancel()

    async def _ask(self, question: str, name: str, max_new_tokens: int, temperature: float) -> Reply:
        room = None if self._writer.window is None else self._writer.window - max_new_tokens
        prompt = agent_prompt(self._writer.tokeniser, question, room)
        reply = await _written(self._writer, prompt, name, max_new_tokens, temperature)
        if (reward := self._rewards.get(name)) is None or reply.text is None:
            return reply
        loop = asyncio.get_running_loop()
        (score,) = await loop.run_in_executor(None, reward, [reply.text])
        return replace(reply, reward=score)


class Aggregator:
    """The aggregator's adapter on its base."""

    def __init__(self, saved: SavedAdapters, engine: Engine) -> None:
        from serve_app.writer import open_writer

        stay_on_loopback()
        self._writer = open_writer(engine, saved)
        (self._name,) = saved.adapters

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take other batch sizes."""
        self._writer.reconfigure(parse_config(Batching, user_config, "user_config of the aggregator"))

    async def answer(
        self,
        question: str,
        weights: tuple[float, ...],
        answers: Mapping[str, str | None],
        kind: ContextKind,
        max_new_tokens: int,
        temperature: float,
    ) -> AsyncGenerator[str | Reply, None]:
        """The revised answer, piece by piece, then all of it."""
        room = None if self._writer.window is None else self._writer.window - max_new_tokens
        prompt = aggregator_prompt(self._writer.tokeniser, kind, question, Profile(weights), answers, room)
        async with aclosing(_writing(self._writer, prompt, self._name, max_new_tokens, temperature)) as pieces:
            async for piece in pieces:
                yield piece


class Judge:
    """The annotators that share one model. One that cannot start, or fails, is missing; the others judge."""

    def __init__(self, annotators: Sequence[AnnotatorConfig]) -> None:
        stay_on_loopback()
        batching = Batching()
        self._answers = tempfile.TemporaryDirectory(prefix="consilience-")  # paid answers, kept as long as this replica
        self._scorers: dict[str, Scorer] = {}
        self._problems: dict[str, str] = {}
        for config in annotators:
            try:
                self._scorers[config.annotator] = _open_scorer(config, Path(self._answers.name))
            except Exception as error:
                log.exception("annotator %s cannot start", config.annotator)
                self._problems[config.annotator] = f"it cannot start: {first_line(error)}"
        self._batch: Any = serve.batch(
            max_batch_size=batching.max_batch_size, batch_wait_timeout_s=batching.batch_wait_timeout_s
        )(self._judge)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take other batch sizes."""
        batching = parse_config(Batching, user_config, "user_config of a judge")
        self._batch.set_max_batch_size(batching.max_batch_size)
        self._batch.set_batch_wait_timeout_s(batching.batch_wait_timeout_s)

    async def judge(self, dilemma: str, theories: Sequence[str]) -> dict[str, Any]:
        """Annotator to theory to (score, answer mass, status), or to a string that says why it is missing."""
        return await self._batch((dilemma, tuple(theories)))

    async def _judge(self, asked: list[tuple[str, tuple[str, ...]]]) -> list[dict[str, Any]]:
        wanted = [theory for theory in THEORIES if any(theory.name in names for _, names in asked)]
        dilemmas = [dilemma for dilemma, _ in asked]
        found: list[dict[str, Any]] = [dict(self._problems) for _ in asked]
        loop = asyncio.get_running_loop()
        for name, scorer in self._scorers.items():
            try:
                scores = await loop.run_in_executor(None, partial(scorer.score, dilemmas, wanted))
            except Exception as error:
                log.exception("annotator %s failed on a batch of %d", name, len(dilemmas))
                for judgements in found:
                    judgements[name] = f"it failed: {first_line(error)}"
                continue
            for row, judgements in enumerate(found):
                judgements[name] = _row(scores, row, wanted, asked[row][1])
        return found


def _row(scores: Scores, row: int, theories: Sequence[Theory], names: Sequence[str]) -> dict[str, Any]:
    return {
        theory.name: (float(scores.score[row, k]), float(scores.answer_mass[row, k]), str(scores.status[row, k]))
        for k, theory in enumerate(theories)
        if theory.name in names
    }


def _open_scorer(config: AnnotatorConfig, answers: Path) -> Scorer:
    from consilience.lm.pool import open_scorer

    return open_scorer(config, answers)


def _load_reward(folder: Path, value: str) -> Any:
    from consilience.values.reward import load_reward

    try:
        return load_reward(folder, value)
    except UserError as error:
        log.warning("answers of %s have no reward: %s", value, error)
        return None


async def _written(writer: Any, prompt: list[int], agent: str, max_new_tokens: int, temperature: float) -> Reply:
    """The reply when it is done."""
    async with aclosing(_writing(writer, prompt, agent, max_new_tokens, temperature)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Reply):
                return piece
    raise RuntimeError("a reply without an end")


async def _writing(
    writer: Any, prompt: list[int], agent: str, max_new_tokens: int, temperature: float
) -> AsyncGenerator[str | Reply, None]:
    """The reply piece by piece, then all of it."""
    from consilience.values.streaming import Turn

    loop = asyncio.get_running_loop()
    started, turn, said = loop.time(), Turn(prompt, agent, max_new_tokens, temperature), ""
    async with aclosing(writer.write(turn)) as pieces:
        async for piece in pieces:
            said += piece
            yield piece
    yield Reply(
        agent,
        said or None,
        problem=None if said else "it said nothing",
        ended=turn.ended or "stop",
        prompt_tokens=len(prompt),
        tokens=turn.tokens,
        seconds=loop.time() - started,
    )
