"""The official `openai` client, unchanged, gets its answers from the service: whole and in pieces."""

import asyncio

import httpx2
import pytest
from openai import AsyncOpenAI, AuthenticationError, UnprocessableEntityError
from serve_fakes import TOKEN, make_setting, small_consensus

MESSAGES = [{"role": "user", "content": "May I read my daughter's diary?"}]


def client(token: str = TOKEN) -> AsyncOpenAI:
    transport = httpx2.ASGITransport(make_setting(small_consensus()).app)
    http = httpx2.AsyncClient(transport=transport)
    return AsyncOpenAI(base_url="http://service/v1", api_key=token, http_client=http, max_retries=0)


def test_the_models_are_listed() -> None:
    async def ask() -> list[str]:
        return [model.id async for model in client().models.list()]

    assert asyncio.run(ask()) == ["consilience"]


def test_a_streamed_reply_is_the_whole_one_in_pieces() -> None:
    async def ask() -> tuple[str | None, list[str], str | None]:
        caller = client()
        profile = {"moral_profile": {"care": 1}}
        whole = await caller.chat.completions.create(model="consilience", messages=MESSAGES, extra_body=profile)
        stream = await caller.chat.completions.create(
            model="consilience", messages=MESSAGES, extra_body=profile, stream=True
        )
        pieces, reason = [], None
        async for chunk in stream:
            for choice in chunk.choices:
                pieces.append(choice.delta.content or "")
                reason = choice.finish_reason or reason
        return whole.choices[0].message.content, pieces, reason

    whole, pieces, reason = asyncio.run(ask())
    assert whole
    assert "".join(pieces) == whole
    assert len([piece for piece in pieces if piece]) > 1
    assert reason in ("stop", "length")


def test_its_errors_are_the_clients_own() -> None:
    with pytest.raises(AuthenticationError, match="token"):
        asyncio.run(client("wrong").chat.completions.create(model="consilience", messages=MESSAGES))
    with pytest.raises(UnprocessableEntityError, match="care"):
        asyncio.run(
            client().chat.completions.create(
                model="consilience", messages=MESSAGES, extra_body={"moral_profile": {"care": 7}}
            )
        )
