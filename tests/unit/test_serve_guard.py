"""Tokens and their files, the rate limiter, and clients that send too much or too slowly."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from consilience.errors import UserError
from serve_app.config import Limits
from serve_app.guard import Guard, RateLimiter
from serve_app.tokens import hash_token, new_token, read_hashes, recognise

TOKEN = "0123456789abcdef"


def test_tokens_are_read_hashed(tmp_path: Path) -> None:
    assert read_hashes({}) == ()
    assert read_hashes({"CONSILIENCE_TOKEN": f" {TOKEN}\n"}) == (hash_token(TOKEN),)
    file = tmp_path / "tokens"
    file.write_text(f"{TOKEN}\n\n{TOKEN[::-1]}\n")
    hashes = read_hashes({"CONSILIENCE_TOKEN_FILE": str(file)})
    assert hashes == (hash_token(TOKEN), hash_token(TOKEN[::-1]))
    assert TOKEN not in "".join(hashes)
    assert recognise(TOKEN[::-1], hashes) == hashes[1]
    assert recognise("", hashes) is recognise("fedcba", hashes) is None
    assert len({new_token() for _ in range(8)}) == 8


def test_bad_tokens_are_named_but_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    for given, says in (
        ({"CONSILIENCE_TOKEN": "hunter2"}, "CONSILIENCE_TOKEN: expected a token of 16 or more"),
        ({"CONSILIENCE_TOKEN": "hunter2 hunter2 hunter2"}, "without spaces"),
        ({"CONSILIENCE_TOKEN": TOKEN, "CONSILIENCE_TOKEN_FILE": str(file)}, "are both set"),
        ({"CONSILIENCE_TOKEN_FILE": str(file)}, "cannot be read"),
    ):
        with pytest.raises(UserError, match=says) as error:
            read_hashes(given)
        assert "hunter2" not in str(error.value)
    file.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        read_hashes({"CONSILIENCE_TOKEN_FILE": str(file)})


def test_rate_limiter_refills_evenly_and_forgets_the_oldest() -> None:
    now = [0.0]
    limiter = RateLimiter(lambda: now[0], most_keys=2)
    assert [limiter.wait("a", 2) for _ in range(3)] == [0, 0, 30]
    assert limiter.wait("b", 2) == 0
    now[0] = 30
    assert limiter.wait("a", 2) == 0
    assert limiter.wait("a", 2) == pytest.approx(30)
    limiter.wait("b", 2)
    limiter.wait("c", 2)
    assert limiter.wait("a", 2) == 0, "at most two keys are remembered"


def call(messages: list[dict[str, Any]], headers: dict[str, str] | None = None, **limits: Any) -> tuple[int, bytes]:
    """Status and body of a POST whose body comes as `messages`; after the last nothing more comes."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"authorization": f"Bearer {TOKEN}", **(headers or {})}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/answer",
        "headers": [(key.encode(), value.encode()) for key, value in given.items()],
    }
    guard = Guard(app, [hash_token(TOKEN)], lambda: Limits(**limits))
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def part(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_put_together() -> None:
    assert call([part(b"ab", True), part(b"c", False)]) == (200, b"abc")


def test_a_large_body_is_refused_before_it_has_all_come() -> None:
    endless = [part(b"x" * 600, True) for _ in range(100)]
    assert call(endless, body_bytes=1_024)[0] == 413
    assert len(endless) == 98
    untouched = [part(b"x", False)]
    assert call(untouched, {"content-length": "1025"}, body_bytes=1_024)[0] == 413
    assert call(untouched, {"content-length": "-1"}, body_bytes=1_024)[0] == 413
    assert untouched


def test_a_slow_client_is_refused() -> None:
    status, body = call([part(b"x", True)], body_timeout_s=0.05)
    assert status == 408
    assert b"send it faster" in body


def test_a_client_that_leaves() -> None:
    assert call([part(b"x", True), {"type": "http.disconnect"}])[0] == 400


def test_without_a_token_no_body_is_read() -> None:
    untouched = [part(b"x", False)]
    assert call(untouched, {"authorization": "Bearer nobody"})[0] == 401
    assert untouched
