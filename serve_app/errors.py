"""What goes wrong, as a person or a client is told: one body, the right status, never a traceback."""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from starlette.exceptions import HTTPException

from consilience.errors import UserError

log = logging.getLogger("ray.serve")

LOST = (RayActorError, TaskCancelledError, DeploymentUnavailableError, ReplicaUnavailableError)
"""What a call raises whose replica is gone; a model's answer changes nothing, so it may be asked again."""


class RefusedError(Exception):
    """A request that gets an error for an answer.

    Attributes:
        status: HTTP status.
        code: short name of the reason, for programs.
        message: one line that says what to change.
        param: the part of the request that it is about.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_after = status, code, message, param, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response, in the form that OpenAI's clients know."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def explain(error: BaseException, retry_after: int) -> RefusedError:
    """The refusal that an exception from a deployment, or from waiting for one, amounts to."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    if isinstance(error, UserError):
        return RefusedError(422, "invalid", str(error))
    if isinstance(error, BackPressureError):
        return RefusedError(503, "busy", "busy: too many requests are waiting; try again later", None, retry_after)
    if isinstance(error, LOST):
        return RefusedError(503, "unavailable", "a model is being restarted; try again later", None, retry_after)
    if isinstance(error, asyncio.TimeoutError):
        return RefusedError(504, "timeout", "the answer took too long; ask for fewer tokens or try again later")
    log.error("a request failed", exc_info=error)
    return RefusedError(500, "internal", "internal error; the log has it under this response's X-Request-ID")


def respond(refused: RefusedError, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal as a response. ASCII, so that text which is not valid Unicode can be quoted."""
    return Response(
        json.dumps(refused.body),
        refused.status,
        {**refused.headers, **(headers or {})},
        media_type="application/json",
    )


def add_handlers(app: FastAPI) -> None:
    """Let every error of `app` be told in one form."""

    @app.exception_handler(RefusedError)
    def _refused(request: Request, error: RefusedError) -> Response:
        return respond(error)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        return respond(_explain_body(error.errors()[0]))

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        return respond(RefusedError(error.status_code, "http", str(error.detail)), error.headers)

    @app.exception_handler(Exception)
    def _failed(request: Request, error: Exception) -> Response:
        return respond(explain(error, 1))


def _explain_body(problem: Mapping[str, Any]) -> RefusedError:
    """The first problem of a body, without what was sent: it may be long, and it is nobody's business but theirs."""
    if problem["type"] == "json_invalid":
        return RefusedError(400, "invalid_json", f"the body is not JSON: {problem['ctx']['error']}")
    if problem["loc"] == ("body",):
        message = "the body is not a JSON object; expected one, sent with 'Content-Type: application/json'"
        return RefusedError(422, "invalid_body", message)
    place = [str(part) for part in problem["loc"] if part != "body"]
    param = ".".join(place)[:100] or "body"
    if problem["type"] == "extra_forbidden":
        return RefusedError(422, "unknown_field", f"{param}: not a field that is known here; leave it out", param)
    if problem["type"] == "missing":
        return RefusedError(422, "missing_field", f"{param}: missing", param)
    return RefusedError(422, "invalid_field", f"{param}: {problem['msg'].removeprefix('Value error, ')}", param)
