"""One judgement: all judges side by side, then the saved consensus."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from consilience.consensus.model import ConsensusModel
from serve_app.config import Limits
from serve_app.errors import LOST, RefusedError, explain
from serve_app.metrics import Metrics
from serve_app.schemas import JudgeResponse
from serve_app.verdict import reliability, weigh

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class JudgeHandle:
    """A deployment of judges.

    Attributes:
        handle: Serve's.
        annotators: whom it hosts.
    """

    handle: Any
    annotators: tuple[str, ...]


@dataclass
class Judging:
    """The judges and the consensus that weighs them."""

    model: ConsensusModel
    judges: Sequence[JudgeHandle]
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self._reliability = reliability(self.model)

    async def judge(self, dilemma: str, theories: Sequence[str], request_id: str, limits: Limits) -> JudgeResponse:
        """Verdicts from whichever annotators answer in time.

        Raises:
            RefusedError: busy, or no annotator answered.
        """
        started = time.monotonic()
        deadline = asyncio.get_running_loop().time() + limits.request_timeout_s
        asked = (self._ask(judge, dilemma, theories, limits, deadline) for judge in self.judges)
        answers = await asyncio.gather(*asked)
        found = {name: answer for part in answers for name, answer in part.items()}
        scores: dict[str, Mapping[str, tuple[float, float, str]]] = {}
        missing = []
        for name in self.model.annotators:
            answer = found.get(name, "it is in the consensus, but not in the pool that is served")
            if isinstance(answer, str):
                self.metrics.missing(name)
                missing.append({"annotator": name, "reason": answer})
            else:
                scores[name] = answer
        if not scores:
            raise RefusedError(
                503, "unavailable", "no annotator can be reached; try again later", None, limits.retry_after_s
            )
        try:
            verdicts = await asyncio.to_thread(weigh, self.model, theories, scores, limits)
        except Exception as error:
            raise explain(error, limits.retry_after_s) from None
        for verdict in verdicts:
            self.metrics.verdict(verdict.theory, verdict.abstain)
        seconds = time.monotonic() - started
        log.info("judged: %d annotators, %d missing, %.3f s", len(scores), len(missing), seconds)
        return JudgeResponse(
            id=request_id,
            verdicts=verdicts,
            reliability=self._reliability,
            missing=missing,
            warnings=list(self.model.calibrated.weak) if self.model.calibrated is not None else [],
            seconds=seconds,
        )

    async def _ask(
        self, judge: JudgeHandle, dilemma: str, theories: Sequence[str], limits: Limits, deadline: float
    ) -> Mapping[str, Any]:
        """What a deployment's annotators said, or why they did not: asked once more, if the replica is lost."""
        started = time.monotonic()
        for attempt in (1, 2):
            response = judge.handle.judge.remote(dilemma, tuple(theories))
            try:
                async with asyncio.timeout_at(deadline):
                    answers: Mapping[str, Any] = await response
            except LOST as error:
                problem: Exception = error
                if attempt == 1:
                    continue
            except TimeoutError as error:
                response.cancel()
                problem = error
                break
            except Exception as error:
                problem = error
                break
            else:
                for name in answers:
                    self.metrics.took(name, time.monotonic() - started)
                return answers
        refused = explain(problem, limits.retry_after_s)
        if refused.code == "busy":
            raise refused
        return dict.fromkeys(judge.annotators, refused.message)
