"""The service apart from HTTP and from Ray: its parts, which of them are there, its limits as they are now."""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from serve_app.answering import Answering, Event, Question
from serve_app.config import Limits
from serve_app.errors import RefusedError
from serve_app.judging import Judging
from serve_app.metrics import Metrics
from serve_app.schemas import JudgeResponse


async def _none_down() -> set[str]:
    return set()


@dataclass
class Service:
    """What the routes call.

    Attributes:
        answering, judging: the parts; None where the folders are not there.
        missing: "answer" and "judge" to what to run, for those that are not there.
        limits: as they are now.
        down: names of the deployments of which no replica runs.
    """

    answering: Answering | None
    judging: Judging | None
    missing: dict[str, str]
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    down: Callable[[], Awaitable[set[str]]] = _none_down

    def __post_init__(self) -> None:
        self._in_flight: Counter[str] = Counter()

    async def answer(self, question: Question, request_id: str) -> AsyncGenerator[Event, None]:
        """See `Answering.answer`.

        Raises:
            RefusedError: also if the question or the answer asked for is too long, or there are no agents here.
        """
        limits = self.limits
        if self.answering is None:
            raise RefusedError(503, "not_set_up", self.missing["answer"])
        self._check_length("question", question.text, limits.question_chars)
        if question.max_tokens > limits.max_tokens:
            message = f"max_tokens: {question.max_tokens}; at most {limits.max_tokens}"
            raise RefusedError(422, "invalid_field", message, "max_tokens")
        with self._counted("answer"):
            async with aclosing(self.answering.answer(question, request_id, limits)) as events:
                async for event in events:
                    yield event

    async def judge(self, dilemma: str, theories: tuple[str, ...], request_id: str) -> JudgeResponse:
        """See `Judging.judge`.

        Raises:
            RefusedError: also if the dilemma is too long, or there is no consensus here.
        """
        if self.judging is None:
            raise RefusedError(503, "not_set_up", self.missing["judge"])
        self._check_length("dilemma", dilemma, self.limits.dilemma_chars)
        with self._counted("judge"):
            return await self.judging.judge(dilemma, theories, request_id, self.limits)

    async def state(self) -> dict[str, str]:
        """Part to "ready", or what to run, or "starting": none that could answer runs."""
        down, state = await self.down(), dict(self.missing)
        if self.answering is not None:
            agents = {handle.deployment_name for handle in self.answering.agents.values()}
            lacking = agents <= down or self.answering.aggregator.deployment_name in down
            state["answer"] = "starting" if lacking else "ready"
        if self.judging is not None:
            judges = {judge.handle.deployment_name for judge in self.judging.judges}
            state["judge"] = "starting" if judges <= down else "ready"
        return state

    @contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        self._in_flight[kind] += 1
        self.metrics.in_flight(kind, self._in_flight[kind])
        try:
            yield
        except RefusedError as refused:
            self.metrics.refused(refused.code)
            raise
        finally:
            self._in_flight[kind] -= 1
            self.metrics.in_flight(kind, self._in_flight[kind])

    @staticmethod
    def _check_length(name: str, text: str, most: int) -> None:
        if len(text) > most:
            raise RefusedError(422, "too_long", f"{name}: {len(text)} characters; at most {most}", name)
