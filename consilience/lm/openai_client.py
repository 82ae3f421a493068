"""Sending chat requests to an OpenAI-compatible server: paced, retried, never paid for twice, never above the cap."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
from pydantic import BaseModel, SecretStr, ValidationError

from consilience.files import digest_json
from consilience.lm.ledger import Ledger
from consilience.lm.openai_annotator import OpenAIAnnotator, price_bound
from consilience.lm.openai_reply import Choice, Lenient, Message, Reply

log = logging.getLogger(__name__)
for _library in ("httpx2", "httpcore2"):  # they log what a server sends, which may be the key
    logging.getLogger(_library).setLevel(logging.WARNING)

_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0
_LONGEST_RETRY_AFTER = 120.0
_GIVE_UP_AFTER = 16
_RETRIED = {408, 409, 429}
_HOPELESS = {401, 402, 404}
_UNCHARGED_SERVER_ERRORS = {500, 503}  # a gateway says 502 or 504 where the model behind it may have answered
_REDACTED_FROM = 8
"""Shortest key taken out of what servers send: dummies for local servers ('none') are words of replies."""


class _UnansweredError(Exception):
    """A request that brought no reply.

    Attributes:
        kind: what went wrong, one of few; each is logged once.
        charged: whether the server may have charged for it.
        retry: whether sending it again may help.
    """

    def __init__(self, kind: str, detail: str = "", *, charged: bool = False, retry: bool = True) -> None:
        super().__init__(kind + detail)
        self.kind, self.charged, self.retry = kind, charged, retry


class _NoLogprobsError(_UnansweredError):
    """The server refuses to send log-probabilities."""


class _Error(BaseModel):
    message: Lenient[str] = None
    code: Lenient[str] = None


class _ErrorBody(BaseModel):
    error: Lenient[_Error] = None


class ChatClient:
    """Asks one model of one server, for one annotator.

    A request is identified by the digest of its address and body, its place in the ledger: one that was answered
    before is not sent. Failures that time may cure (connection, time-out, 408, 409,
    429, 5xx, a body that is no completion) are retried with exponential back-off and jitter; a `Retry-After` holds
    every request back. The highest price of each request is reserved before it is sent, and stays reserved where the
    server may have charged for an answer that did not arrive.

    Attributes:
        stopped: why nothing is sent any more (key or model refused, cost cap, server silent), or None.
    """

    def __init__(self, config: OpenAIAnnotator, key: SecretStr | None, ledger: Ledger) -> None:
        self.stopped: str | None = None
        self._config = config
        self._key = key
        self._ledger = ledger
        self._url = f"{config.base_url.rstrip('/')}/chat/completions"
        self._offers_logprobs = True
        self._next_slot = 0.0
        self._unanswered_in_a_row = 0
        self._logged: set[str] = set()

    async def ask(self, bodies: Sequence[dict[str, Any]]) -> list[Reply | None]:
        """A reply per request body, or None where there is none after all retries."""
        config = self._config
        self._in_flight = 0
        self._settled = asyncio.Condition()
        slots = asyncio.Semaphore(config.concurrency)
        headers = {"Authorization": f"Bearer {self._key.get_secret_value()}"} if self._key else {}
        # The whole request has its own time limit; an address where nobody listens is known sooner, and is free.
        timeout = httpx2.Timeout(None, connect=min(10.0, config.timeout / 2))
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=config.concurrency)

        async with httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits) as http:

            async def ask_one(body: dict[str, Any]) -> Reply | None:
                async with slots:
                    return await self._ask(http, body)

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(ask_one(body)) for body in bodies]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _ask(self, http: httpx2.AsyncClient, body: dict[str, Any]) -> Reply | None:
        for attempt in range(self._config.max_retries + 1):
            try:
                reply = await self._answer(http, body)
            except _UnansweredError as failure:
                self._log_once(failure)
                if self.stopped or not failure.retry:
                    return None
            else:
                self._unanswered_in_a_row = 0
                return reply
            if attempt < self._config.max_retries:
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt)
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
        self._unanswered_in_a_row += 1
        if self._unanswered_in_a_row >= _GIVE_UP_AFTER:
            self._stop(f"{_GIVE_UP_AFTER} requests in a row brought no answer")
        return None

    async def _answer(self, http: httpx2.AsyncClient, body: dict[str, Any]) -> Reply:
        """One attempt; a second without log-probabilities if the server turns out to have none."""
        bare = {name: value for name, value in body.items() if name not in ("logprobs", "top_logprobs")}
        if not self._offers_logprobs:
            return await self._attempt(http, bare)
        try:
            return await self._attempt(http, body)
        except _NoLogprobsError as failure:
            reply = await self._attempt(http, bare)
            self._log_once(failure)
            self._offers_logprobs = False
            return reply

    async def _attempt(self, http: httpx2.AsyncClient, body: dict[str, Any]) -> Reply:
        """The reply on record, or the one that the server sends now, then on record."""
        key = digest_json([self._url, body])
        if (known := self._ledger.answer(key)) is not None:
            return Reply.model_validate(known)
        most = price_bound(self._config, body)
        await self._reserve(key, most)
        cost, answer = most, None
        try:
            await self._pace()
            reply = await self._send(http, key, body)
            cost, answer = self._price(reply, most), reply.model_dump(mode="json", exclude_none=True)
        except _UnansweredError as failure:
            cost = most if failure.charged else 0.0
            raise
        finally:
            await self._settle(key, most, cost, answer)
        return reply

    async def _send(self, http: httpx2.AsyncClient, key: str, body: dict[str, Any]) -> Reply:
        headers = {"Idempotency-Key": self._ledger.idempotency_key(key)}
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await http.post(self._url, json=body, headers=headers)
        except TimeoutError:
            raise _UnansweredError(f"no answer within {self._config.timeout:g} s", charged=True) from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise _UnansweredError("no connection") from None
        except httpx2.RequestError as error:
            raise _UnansweredError(f"connection lost ({type(error).__name__})", charged=True) from None
        if not response.is_success:
            return self._refused(response, body)
        try:
            reply = Reply.model_validate_json(response.content)
        except ValidationError:
            raise _UnansweredError("the body is not a chat completion", charged=True) from None
        return Reply.model_validate_json(self._redact(reply.model_dump_json(exclude_none=True)))

    def _refused(self, response: httpx2.Response, body: dict[str, Any]) -> Reply:
        """What an HTTP error means; one of them is the model's answer."""
        status = response.status_code
        error = _error(response)
        if status == 400 and error.code in ("content_filter", "content_policy_violation"):
            return Reply(choices=[Choice(message=Message(), finish_reason="content_filter")])
        if status in (400, 422) and "logprobs" in body and "logprobs" in response.text:
            raise _NoLogprobsError("the server offers no log-probabilities: replies are parsed")
        detail = "".join(c if c.isprintable() else " " for c in self._redact(error.message or ""))[:200]
        if status in _HOPELESS or error.code == "insufficient_quota":
            self._stop(f"HTTP {status}: {detail}")
        wait = _retry_after(response.headers.get("retry-after", ""))
        if wait > _LONGEST_RETRY_AFTER:
            self._stop(f"HTTP {status}: the server asks to wait {wait:.0f} s")
        self._next_slot = max(self._next_slot, time.monotonic() + wait)
        raise _UnansweredError(
            f"HTTP {status}",
            f": {detail}" if detail else "",
            charged=status >= 500 and status not in _UNCHARGED_SERVER_ERRORS,
            retry=status in _RETRIED or status >= 500,
        )

    async def _pace(self) -> None:
        """Wait for this request's turn: turns are evenly spaced, retries take theirs like any other."""
        slot = max(self._next_slot, time.monotonic())
        self._next_slot = slot + 60.0 / self._config.requests_per_minute
        await asyncio.sleep(slot - time.monotonic())

    async def _reserve(self, key: str, most: float) -> None:
        """Reserve `most` dollars, once those in flight leave room under the cap."""
        cap = self._config.cost_cap_usd
        async with self._settled:
            while cap is not None and self._ledger.cost_usd + most > cap and self._in_flight:
                await self._settled.wait()
            if cap is not None and self._ledger.cost_usd + most > cap:
                self._stop(f"cost cap: {self._ledger.cost_usd:.6f} of {cap:g} USD spent or possibly spent")
            if self.stopped:
                raise _UnansweredError(self.stopped)
            self._ledger.reserve(key, most)
            self._in_flight += 1

    async def _settle(self, key: str, most: float, cost: float, answer: dict[str, Any] | None) -> None:
        async with self._settled:
            self._in_flight -= 1
            self._settled.notify_all()
            self._ledger.settle(key, most, cost, answer)

    def _price(self, reply: Reply, most: float) -> float:
        """Price of a reply in US dollars, from what the server bills; `most` where it does not say."""
        if reply.usage is None:
            return most
        return (
            reply.usage.prompt_tokens * self._config.usd_per_million_input
            + reply.usage.completion_tokens * self._config.usd_per_million_output
        ) / 1e6

    def _redact(self, text: str) -> str:
        key = self._key.get_secret_value() if self._key else ""
        return text.replace(key, "[key]") if len(key) >= _REDACTED_FROM else text

    def _stop(self, reason: str) -> None:
        if self.stopped is None:
            self.stopped = reason
            log.error("annotator %s stops, the rest is missing: %s", self._config.annotator, reason)

    def _log_once(self, failure: _UnansweredError) -> None:
        if self.stopped is None and failure.kind not in self._logged:
            self._logged.add(failure.kind)
            log.warning("annotator %s: %s", self._config.annotator, failure)


def _error(response: httpx2.Response) -> _Error:
    try:
        return _ErrorBody.model_validate_json(response.content).error or _Error()
    except ValidationError:
        return _Error()


def _retry_after(header: str) -> float:
    """Seconds that a `Retry-After` header asks for, as a number or a date; 0 where it asks for nothing."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", header):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
