"""The HTTP interface: validation and routing, no more."""

import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, FastAPI, Request, Response, Security
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles

from consilience.theories import THEORIES, THEORY_NAMES, VALUES
from serve_app.answering import Event, Question
from serve_app.chat import MODEL, ChatRequest, ChatResponse, chunks, completion
from serve_app.errors import RefusedError, add_handlers
from serve_app.guard import Guard
from serve_app.schemas import AgentAnswer, AnswerRequest, AnswerResponse, JudgeRequest, JudgeResponse
from serve_app.service import Service

log = logging.getLogger("ray.serve")

_STATIC = Path(__file__).parent / "static"
_SSE = {"X-Accel-Buffering": "no"}


def _refusals(meanings: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": meaning, "content": content} for status, meaning in meanings.items()}


_REFUSALS = _refusals(
    {
        400: "not JSON",
        401: "no token, or an unknown one",
        408: "the body came too slowly",
        413: "the body is too large",
        422: "a field is wrong; the message says which and what was expected",
        429: "too many requests with this token; see Retry-After",
        503: "busy (see Retry-After), or this part is not set up",
        504: "the answer took too long",
    }
)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the answer; server-sent events where `stream` is true",
        "content": {
            "text/event-stream": {
                "schema": {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
            }
        },
    }
}
_NO_MODEL = _refusals({404: "there is no such model here"})
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}

Metrics = Callable[[], Awaitable[str]]


def make_app(service: Service, hashes: Sequence[str], metrics: Metrics) -> FastAPI:
    """The application.

    Args:
        hashes: of the tokens that are let in, from `tokens.read_hashes`.
        metrics: what `/metrics` shows.
    """
    app = FastAPI(
        title="Consilience",
        description="Moral agents' aggregated answers, and a consensus of language models on moral dilemmas. It is "
        "descriptive: what models say, not what is right.",
        version="1",
        docs_url=None,  # those pages fetch their scripts from elsewhere
        redoc_url=None,
        responses=_REFUSALS,
    )
    app.add_middleware(Guard, hashes=hashes, limits=lambda: service.limits, refused=service.metrics.refused)
    add_handlers(app)
    app.include_router(_open_routes(service, metrics))
    app.include_router(_own_routes(service), dependencies=[Security(HTTPBearer(auto_error=False))])
    app.include_router(_chat_routes(service), dependencies=[Security(HTTPBearer(auto_error=False))])
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.openapi_schema = _described(app)
    return app


def request_id(request: Request) -> str:
    """The id that Serve's proxy gave, or took from the client: in its logs and in the response's X-Request-ID too."""
    return request.headers.get("x-request-id", "")[:100] or uuid4().hex


RequestId = Annotated[str, Depends(request_id)]


def _open_routes(service: Service, metrics: Metrics) -> APIRouter:
    """What asks for no token."""
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_STATIC / "index.html")

    @router.get("/healthz", summary="Whether the service is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", summary="Which parts are ready; 503 where none is")
    async def readyz() -> Response:
        state = await service.state()
        return JSONResponse(state, 200 if "ready" in state.values() else 503)

    @router.get("/metrics", response_class=PlainTextResponse, summary="Metrics of this node for Prometheus")
    async def show_metrics() -> Response:
        return PlainTextResponse(await metrics())

    return router


def _own_routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/values", summary="The values that a profile is made of")
    async def values() -> list[dict[str, str]]:
        return [{"name": value.name, "definition": value.definition} for value in VALUES]

    @router.get("/theories", summary="The theories that a dilemma is judged under")
    async def theories() -> list[dict[str, str]]:
        return [{"name": theory.name, "definition": theory.definition} for theory in THEORIES]

    @router.post(
        "/answer",
        response_model=AnswerResponse,
        summary="An answer that respects a moral profile",
        responses=_STREAM,
    )
    async def answer(body: AnswerRequest, request_id: RequestId) -> Any:
        question = Question(
            body.question,
            body.profile.to_profile(),
            body.context,
            body.max_tokens or service.limits.answer_tokens,
            body.temperature,
        )
        _log_prompt(service, body.question)
        events = service.answer(question, request_id)
        if not body.stream:
            return await _whole(events)
        return StreamingResponse(_sse(await _begun(events)), media_type="text/event-stream", headers=_SSE)

    @router.post("/judge", summary="The consensus of a pool of models on a dilemma")
    async def judge(body: JudgeRequest, request_id: RequestId) -> JudgeResponse:
        _log_prompt(service, body.dilemma)
        return await service.judge(body.dilemma, tuple(body.theories or THEORY_NAMES), request_id)

    return router


def _chat_routes(service: Service) -> APIRouter:
    """OpenAI's interface."""
    router = APIRouter(prefix="/v1")

    @router.get("/models", summary="The models, in OpenAI's form")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_MODEL]}

    @router.get("/models/{name}", summary="One model, in OpenAI's form", responses=_NO_MODEL)
    async def model(name: str) -> dict[str, Any]:
        if name != MODEL:
            raise RefusedError(404, "model_not_found", f"model: there is none but '{MODEL}' here", "model")
        return _MODEL

    @router.post(
        "/chat/completions",
        response_model=ChatResponse,
        summary="An answer, in OpenAI's form",
        responses=_STREAM | _NO_MODEL,
    )
    async def chat(body: ChatRequest, request_id: RequestId) -> Any:
        question = Question(
            body.question(),
            body.moral_profile.to_profile(),
            body.context,
            body.max_completion_tokens or body.max_tokens or service.limits.answer_tokens,
            body.temperature or 0.0,
        )
        _log_prompt(service, question.text)
        events = service.answer(question, request_id)
        if not body.stream:
            return completion(await _whole(events))
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        streamed = chunks(await _begun(events), request_id, include_usage)
        return StreamingResponse(streamed, media_type="text/event-stream", headers=_SSE)

    return router


_MODEL = {"id": MODEL, "object": "model", "created": 0, "owned_by": MODEL}


async def _whole(events: AsyncGenerator[Event, None]) -> AnswerResponse:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, AnswerResponse):
                return event
    raise RuntimeError("an answer without an end")


Told = AsyncGenerator[Event | RefusedError, None]


async def _begun(events: AsyncGenerator[Event, None]) -> Told:
    """`events` after the first has come: what is refused before it gets its own status, later it is the last event."""
    first = await anext(events)

    async def all_events() -> Told:
        async with aclosing(events):
            try:
                yield first
                async for event in events:
                    yield event
            except RefusedError as refused:
                yield refused

    return all_events()


async def _sse(events: Told) -> AsyncGenerator[str, None]:
    async with aclosing(events):
        async for event in events:
            match event:
                case str():
                    name, data = "token", json.dumps({"text": event})
                case AgentAnswer():
                    name, data = "agent", event.model_dump_json()
                case AnswerResponse():
                    name, data = "done", event.model_dump_json()
                case RefusedError():
                    name, data = "error", json.dumps(event.body)
            yield f"event: {name}\ndata: {data}\n\n"


def _log_prompt(service: Service, text: str) -> None:
    if service.limits.log_prompts:
        log.info("prompt: %s", json.dumps(text))


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the one form of error in place of FastAPI's own."""
    document = app.openapi()
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = _ERROR
    return document
