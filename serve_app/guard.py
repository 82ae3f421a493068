"""What every request passes before anything else looks at it: token, rate, size and time of its body."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.config import Limits
from serve_app.errors import RefusedError, respond
from serve_app.tokens import recognise

OPEN = ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/favicon.ico")
"""Paths that ask for no token, as does all under /static/."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware. Refuses what has no right to be heard, and hands the rest on with its body read."""

    def __init__(
        self,
        app: ASGIApp,
        hashes: Sequence[str],
        limits: Callable[[], Limits],
        refused: Callable[[str], None] = lambda code: None,
    ) -> None:
        """
        Args:
            hashes: of the tokens, from `tokens.read_hashes`.
            limits: the limits as they are now.
            refused: is told the code of every refusal.
        """
        self._app, self._hashes, self._limits, self._refused = app, tuple(hashes), limits, refused
        self._rate = RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        send = _with_headers(send)
        try:
            self._admit(scope)
            body = await self._read(scope, receive)
        except RefusedError as refused:
            self._refused(refused.code)
            extra = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
            await respond(refused, extra)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _admit(self, scope: Scope) -> None:
        path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
        if path in OPEN or path.startswith("/static/"):
            return
        kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        known = recognise(token.strip(), self._hashes) if kind.lower() == "bearer" else None
        if known is None:
            what = "unknown token" if token else "no token"
            raise RefusedError(401, "unauthorised", f"{what}; expected the header 'Authorization: Bearer TOKEN'")
        wait = self._rate.wait(known, self._limits().requests_per_minute)
        if wait > 0:
            allowed = self._limits().requests_per_minute
            message = f"more than {allowed} requests a minute with this token; wait as long as Retry-After says"
            raise RefusedError(429, "rate_limited", message, None, math.ceil(wait))

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        limits = self._limits()
        too_large = RefusedError(
            413, "too_large", f"the body is longer than {limits.body_bytes} bytes; send a shorter one"
        )
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > limits.body_bytes:
            raise too_large
        body, more = b"", scope["method"] not in ("GET", "HEAD", "OPTIONS")
        try:
            async with asyncio.timeout(limits.body_timeout_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError(400, "disconnected", "the client left before its body had arrived")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limits.body_bytes:
                        raise too_large
        except TimeoutError:
            seconds = f"{limits.body_timeout_s:g} s"
            raise RefusedError(408, "slow", f"the body took longer than {seconds} to arrive; send it faster") from None
        return body


class RateLimiter:
    """A token bucket for each of a bounded number of keys: a minute's worth at once, refilled evenly."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most_keys: int = 1_000) -> None:
        self._clock, self._most_keys = clock, most_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str, per_minute: int) -> float:
        """Seconds until `key` may ask again; 0 = now, and then this counts as asking."""
        now = self._clock()
        level, since = self._buckets.pop(key, (float(per_minute), now))
        level = min(float(per_minute), level + (now - since) * per_minute / 60)
        allowed = level >= 1
        self._buckets[key] = (level - 1 if allowed else level, now)
        if len(self._buckets) > self._most_keys:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - level) * 60 / per_minute


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives `body`, which has been read, and then what the client does next."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
