"""A chat completions server on loopback that counts, bills and misbehaves as a test tells it to."""

import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USD_PER_TOKEN_IN, USD_PER_TOKEN_OUT = 0.5e-6, 2e-6
Body = dict[str, Any]


@dataclass
class Seen:
    """A request: when it came, its idempotency key, how often that key had come before, and what was in it."""

    time: float
    key: str
    earlier: int
    authorization: str | None
    body: Body

    @property
    def question(self) -> str:
        return self.body["messages"][-1]["content"]


def p_yes(question: str) -> float:
    """What the model behind the server thinks: another probability for every question."""
    return int(hashlib.sha256(question.encode()).hexdigest()[:8], 16) / 2**32


def with_logprobs(seen: Seen) -> Body:
    """An answer with log-probabilities; 4 % of the mass is on something else."""
    p = p_yes(seen.question)
    top = {"Yes": 0.7 * p, " yes": 0.26 * p, "No": 0.9 * (1 - p), " NO": 0.06 * (1 - p), "Maybe": 0.04}
    alternatives = [{"token": t, "logprob": math.log(max(q, 1e-30)), "bytes": list(t.encode())} for t, q in top.items()]
    best = max(alternatives, key=lambda alternative: alternative["logprob"])
    return completion(best["token"], logprobs={"content": [{**best, "top_logprobs": alternatives}]})


def plain(seen: Seen) -> Body:
    """An answer without log-probabilities."""
    return completion("Yes." if p_yes(seen.question) > 0.5 else "No.")


def completion(content: str | None, finish_reason: str = "stop", **more: Any) -> Body:
    refusal = more.pop("refusal", None)
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "mock-2026-01-01",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **more}],
    }


Fault = str | tuple[int, dict[str, str], Body] | None


@dataclass
class ChatServer:
    """Bills every answer that it makes; a repeated idempotency key gets the first answer again, for nothing.

    Attributes:
        fault: says what goes wrong with a request: garbage, half, silence, lost (billed, then the connection closes),
            a triple of status, headers and body, or None.
        model: makes the completion.
        bills: whether a completion says what it cost.
        latency: seconds before an answer.
    """

    fault: Callable[[Seen], Fault] = lambda seen: None
    model: Callable[[Seen], Body] = with_logprobs
    bills: bool = True
    latency: float = 0.0
    requests: list[Seen] = field(default_factory=list)
    billed: Counter[str] = field(default_factory=Counter)
    replayed: Counter[str] = field(default_factory=Counter)
    billed_usd: float = 0.0
    most_in_flight: int = 0
    url: str = ""
    _answers: dict[str, Body] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)
    _in_flight: int = 0

    @contextmanager
    def running(self) -> Iterator["ChatServer"]:
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                chat.respond(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that was killed

        server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield self
        finally:
            self._closing.set()
            server.shutdown()
            server.server_close()

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        key = handler.headers["Idempotency-Key"]
        with self._lock:
            earlier = sum(seen.key == key for seen in self.requests)
            seen = Seen(time.monotonic(), key, earlier, handler.headers["Authorization"], body)
            self.requests.append(seen)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            self._closing.wait(self.latency)
            assert handler.path == "/v1/chat/completions"
            self._send(handler, seen, self.fault(seen))
        finally:
            with self._lock:
                self._in_flight -= 1

    def _send(self, handler: BaseHTTPRequestHandler, seen: Seen, fault: Fault) -> None:
        if isinstance(fault, tuple):
            status, headers, error = fault
            return _write(handler, status, json.dumps(error).encode(), headers)
        if fault == "silence":
            handler.close_connection = True
            self._closing.wait(30)
            return None
        if fault == "garbage":
            return _write(handler, 200, b'<html>{"choices": [}')
        payload = json.dumps(self._answer(seen)).encode()
        if fault in ("half", "lost"):
            handler.close_connection = True
            if fault == "half":
                _write(handler, 200, payload[: len(payload) // 2], length=len(payload))
            return None
        return _write(handler, 200, payload)

    def _answer(self, seen: Seen) -> Body:
        with self._lock:
            if seen.key in self._answers:
                self.replayed[seen.key] += 1
                return self._answers[seen.key]
            answer = self.model(seen)
            tokens = len(seen.question) // 4 + 20
            self.billed[seen.key] += 1
            self.billed_usd += tokens * USD_PER_TOKEN_IN + 2 * USD_PER_TOKEN_OUT
            if self.bills:
                answer["usage"] = {"prompt_tokens": tokens, "completion_tokens": 2, "total_tokens": tokens + 2}
            self._answers[seen.key] = answer
            return answer


def _write(
    handler: BaseHTTPRequestHandler,
    status: int,
    payload: bytes,
    headers: dict[str, str] | None = None,
    length: int | None = None,
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(payload) if length is None else length))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(payload)
