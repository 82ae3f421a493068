"""One answer: the agents that a context needs, side by side, then the aggregator, as a stream of events."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from consilience.theories import VALUE_NAMES
from consilience.values.context import ContextKind, wanted
from consilience.values.profile import Profile
from serve_app.config import Limits
from serve_app.errors import LOST, RefusedError, explain
from serve_app.metrics import Metrics
from serve_app.models import Reply
from serve_app.schemas import AgentAnswer, AnswerResponse, Usage

log = logging.getLogger("ray.serve")

Event = AgentAnswer | str | AnswerResponse
"""An agent has answered; a piece of the answer; the whole."""


@dataclass(frozen=True)
class Question:
    """What is asked."""

    text: str
    profile: Profile
    context: ContextKind
    max_tokens: int
    temperature: float


@dataclass
class Answering:
    """The agents and the aggregator, behind Serve handles.

    Attributes:
        agents: agent to the handle of the deployment that hosts it; several may share one.
        aggregator: its handle.
    """

    agents: Mapping[str, Any]
    aggregator: Any
    metrics: Metrics = field(default_factory=Metrics)

    async def answer(self, question: Question, request_id: str, limits: Limits) -> AsyncGenerator[Event, None]:
        """The events of one answer; the last is the whole.

        Raises:
            RefusedError: busy, out of time, or no agent or no aggregator can be had. An agent that fails beside others
                that answer is missing, and the aggregator is told so.
        """
        started = time.monotonic()
        names = [value.name for value in wanted(question.context, question.profile)]
        heard: dict[str, AgentAnswer] = {}
        replies: list[Reply] = []
        try:
            async with aclosing(self._replies(question, names, limits)) as events:
                async for event in events:
                    if isinstance(event, str):
                        yield event
                        continue
                    replies.append(event)
                    self._measure(event)
                    if event.agent in names:
                        heard[event.agent] = _shown(event)
                        yield heard[event.agent]
        except Exception as error:
            raise explain(error, limits.retry_after_s) from None
        whole, seconds = replies[-1], time.monotonic() - started
        read, written = sum(reply.prompt_tokens for reply in replies), sum(reply.tokens for reply in replies)
        log.info("answered: agents %s, %d tokens, %.3f s", ",".join(names) or "none", written, seconds)
        yield AnswerResponse(
            id=request_id,
            answer=whole.text,
            finish_reason="length" if whole.ended == "length" else "stop",
            profile=dict(zip(VALUE_NAMES, question.profile.weights, strict=True)),
            context=question.context,
            agents=[heard[name] for name in names],
            usage=Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written),
            seconds=seconds,
        )

    def _measure(self, reply: Reply) -> None:
        if reply.tokens:
            self.metrics.wrote(reply.agent, reply.seconds, reply.prompt_tokens, reply.tokens)
        if reply.text is None:
            self.metrics.missing(reply.agent)

    async def _replies(
        self, question: Question, names: Sequence[str], limits: Limits
    ) -> AsyncGenerator[str | Reply, None]:
        """The reply of every agent in `names`, then the aggregator's pieces, then its reply."""
        deadline = asyncio.get_running_loop().time() + limits.request_timeout_s
        found: dict[str, Reply] = {}
        async with aclosing(self._consult(question, names, limits, deadline)) as replies:
            async for reply in replies:
                found[reply.agent] = reply
                yield reply
        if names and not any(reply.tokens for reply in found.values()):
            message = "no agent can be reached; try again later"
            raise RefusedError(503, "unavailable", message, None, limits.retry_after_s)
        answers = {name: reply.text for name, reply in found.items()}
        whole = False
        async with aclosing(self._aggregate(question, answers, deadline)) as pieces:
            async for piece in pieces:
                whole = isinstance(piece, Reply)
                yield piece
        if not whole:
            message = "the answer broke off; try again later"
            raise RefusedError(503, "unavailable", message, None, limits.retry_after_s)

    async def _consult(
        self, question: Question, names: Sequence[str], limits: Limits, deadline: float
    ) -> AsyncGenerator[Reply, None]:
        """A reply of every agent in `names`, each when it is done."""
        shared: dict[str, tuple[Any, list[str]]] = {}
        for name in names:
            if (handle := self.agents.get(name)) is None:
                yield Reply(name, problem="there is no agent for this value here")
            else:
                shared.setdefault(handle.deployment_name, (handle, []))[1].append(name)
        replies: asyncio.Queue[Reply | BaseException] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._ask(handle, question, of, limits, replies)) for handle, of in shared.values()
        ]
        try:
            for _ in range(sum(len(of) for _, of in shared.values())):
                async with asyncio.timeout_at(deadline):
                    reply = await replies.get()
                if isinstance(reply, BaseException):
                    raise reply
                yield reply
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(
        self,
        handle: Any,
        question: Question,
        names: Sequence[str],
        limits: Limits,
        replies: "asyncio.Queue[Reply | BaseException]",
    ) -> None:
        """Put a reply of each of `names` on the queue: once more from another replica, if the first is lost."""
        left = list(names)
        for attempt in (1, 2):
            stream = handle.options(stream=True).answer.remote(
                question.text, tuple(left), limits.agent_tokens, question.temperature
            )
            try:
                async with aclosing(_followed(stream)) as found:
                    async for reply in found:
                        left.remove(reply.agent)
                        replies.put_nowait(reply)
                for name in left:
                    replies.put_nowait(Reply(name, problem="its answer broke off"))
                return
            except LOST as error:
                problem: Exception = error
                if attempt == 1:
                    continue
            except Exception as error:
                problem = error
                break
        refused = explain(problem, limits.retry_after_s)
        if refused.code == "busy":
            replies.put_nowait(refused)
        for name in left:
            replies.put_nowait(Reply(name, problem=refused.message))

    async def _aggregate(
        self, question: Question, answers: Mapping[str, str | None], deadline: float
    ) -> AsyncGenerator[str | Reply, None]:
        """The aggregator's pieces, then all of it: from another replica, if the first is lost before it said a word."""
        said = False
        for attempt in (1, 2):
            stream = self.aggregator.options(stream=True).answer.remote(
                question.text,
                question.profile.weights,
                answers,
                question.context,
                question.max_tokens,
                question.temperature,
            )
            try:
                async with aclosing(_followed(stream)) as pieces:
                    while True:
                        async with asyncio.timeout_at(deadline):
                            piece = await anext(pieces, None)
                        if piece is None:
                            return
                        said = True
                        yield piece
            except LOST:
                if said or attempt == 2:
                    raise


async def _followed(stream: Any) -> AsyncGenerator[Any, None]:
    """What a streaming call yields; whoever stops listening cancels it."""
    try:
        async for item in stream:
            yield item
    except (GeneratorExit, asyncio.CancelledError):
        stream.cancel()
        raise


def _shown(reply: Reply) -> AgentAnswer:
    return AgentAnswer(
        value=reply.agent,
        answer=reply.text,
        reward=reply.reward,
        problem=reply.problem,
        seconds=reply.seconds if reply.tokens else None,
    )
