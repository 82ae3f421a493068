"""The chat completions of OpenAI's interface, so that its clients work here."""

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from consilience.values.context import ContextKind
from serve_app.answering import Event
from serve_app.errors import RefusedError
from serve_app.schemas import AgentAnswer, AnswerResponse, Body, MoralProfile, Temperature, Usage, _unicode

MODEL = "consilience"

ALL_VALUES = MoralProfile(authority=1, care=1, fairness=1, loyalty=1, sanctity=1)
"""The profile of a request that gives none: everyone is heard."""


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: Annotated[str, AfterValidator(_unicode)]


class Message(Body):
    """A message."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[str, AfterValidator(_unicode)] | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(Body):
    """What a stream holds besides the text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(Body):
    """A question in OpenAI's form. Settings that this service does not have are accepted at their neutral value."""

    model: str
    messages: list[Message] = Field(min_length=1, description="one message, the user's: the question")
    moral_profile: MoralProfile = Field(ALL_VALUES, description="default: every value fully")
    context: ContextKind = "dynamic"
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: Temperature | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    top_p: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    user: str | None = Field(None, description="accepted, not used")

    def question(self) -> str:
        """The user's message.

        Raises:
            RefusedError: another model, or other messages: none here is trained on conversations, so they would not be
                heeded.
        """
        if self.model != MODEL:
            raise RefusedError(404, "model_not_found", f"model: there is none but '{MODEL}' here", "model")
        if len(self.messages) > 1 or self.messages[0].role != "user":
            message = "messages: expected one message, the user's; whose values to respect is said in moral_profile"
            raise RefusedError(422, "unsupported_messages", message, "messages")
        if not (text := self.messages[0].text).strip():
            raise RefusedError(422, "invalid_field", "messages: empty; expected a question", "messages")
        return text


class Choice(BaseModel):
    """The answer."""

    index: int = 0
    message: dict[str, Any]
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatResponse(BaseModel):
    """A chat completion; `agents` and `moral_profile` are additions to OpenAI's form."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str = MODEL
    choices: list[Choice]
    usage: Usage
    moral_profile: dict[str, float]
    agents: list[AgentAnswer]


def completion(whole: AnswerResponse) -> ChatResponse:
    """An answer in OpenAI's form."""
    message = {"role": "assistant", "content": whole.answer or "", "refusal": None}
    return ChatResponse(
        id=f"chatcmpl-{whole.id}",
        created=int(time.time()),
        choices=[Choice(message=message, finish_reason=whole.finish_reason)],
        usage=whole.usage,
        moral_profile=whole.profile,
        agents=whole.agents,
    )


async def chunks(
    events: AsyncGenerator[Event | RefusedError, None], request_id: str, include_usage: bool
) -> AsyncGenerator[str, None]:
    """The events of an answer as OpenAI's server-sent chunks; agents' answers are left out."""
    head = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": MODEL,
    }

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return _data({**head, "choices": [choice], **({"usage": None} if include_usage else {})})

    yield chunk({"role": "assistant", "content": ""})
    async with aclosing(events):
        async for event in events:
            if isinstance(event, RefusedError):
                yield _data(event.body)
                return
            if isinstance(event, str):
                yield chunk({"content": event})
            elif isinstance(event, AnswerResponse):
                yield chunk({}, event.finish_reason)
                if include_usage:
                    yield _data({**head, "choices": [], "usage": event.usage.model_dump()})
    yield "data: [DONE]\n\n"


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
