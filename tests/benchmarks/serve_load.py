"""The service under load; prints Markdown tables.

    python -m tests.benchmarks.serve_load                               # deployments that echo: what serving costs
    python -m tests.benchmarks.serve_load --config configs/serve.yaml   # the models of that config

Three shows: Serve beside the same actors called directly, one request of two values at a time; closed loops of 1, 4,
16 and 64 clients, each of which asks again as soon as it has its answer; and an open loop that sends three times as
many requests as the best closed loop sustained, on a clock, whatever comes back. In it every request must end in one
answer, to its own question, or in an explicit refusal. Clients and service share the machine.
"""

import argparse
import asyncio
import itertools
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import HTTPOptions, ProxyLocation

from actors.cluster import connect
from consilience.config import load_config
from consilience.values.agents import open_agents
from consilience.values.aggregator_data import aggregator_prompt
from consilience.values.answer_settings import AGGREGATOR, AnswerConfig
from consilience.values.context import ContextKind
from consilience.values.profile import Profile
from consilience.values.saved import SavedAdapters, read_adapters
from serve_app.app import DEFAULTS, bind
from serve_app.config import Limits, ServeConfig
from serve_app.ingress import Ingress
from serve_app.models import Reply
from serve_app.tokens import hash_token, new_token

VALUES = ("care", "fairness")
TOKENS = 24
UNLIMITED = Limits(requests_per_minute=10_000_000, agent_tokens=TOKENS)


class EchoAgents:
    """Agents that answer at once."""

    async def answer(self, question: str, names: Sequence[str], *_: Any) -> AsyncIterator[Reply]:
        for name in names:
            yield Reply(name, question, tokens=1)


class EchoAggregator:
    """An aggregator that says the question, in as many pieces as a real one would."""

    async def answer(self, question: str, *_: Any) -> AsyncIterator[str | Reply]:
        for piece in _pieces(question):
            yield piece
        yield Reply("aggregator", question, tokens=TOKENS)


class PlainAgents:
    """The agents without Serve and its batches."""

    def __init__(self, saved: SavedAdapters) -> None:
        self._agents = open_agents(saved)

    def answer(self, question: str, names: Sequence[str], tokens: int, temperature: float) -> Iterator[Reply]:
        config = AnswerConfig(max_new_tokens=tokens, temperature=temperature)
        for name, text in zip(names, self._agents.answer([question] * len(names), names, config), strict=True):
            yield Reply(name, text)


class PlainAggregator:
    """The aggregator without Serve and its batches."""

    def __init__(self, saved: SavedAdapters) -> None:
        self._agents = open_agents(saved)

    def answer(
        self,
        question: str,
        weights: tuple[float, ...],
        answers: Mapping[str, str | None],
        kind: ContextKind,
        tokens: int,
        temperature: float,
    ) -> Iterator[str]:
        config = AnswerConfig(max_new_tokens=tokens, temperature=temperature)
        tokeniser, room = self._agents.model.tokeniser, self._agents.room(config)
        prompt = aggregator_prompt(tokeniser, kind, question, Profile(weights), answers, room)
        (text,) = self._agents.reply([prompt], [AGGREGATOR], config)
        yield text


def _pieces(text: str) -> list[str]:
    size = max(1, len(text) // TOKENS)
    return [text[start : start + size] for start in range(0, len(text), size)]


@dataclass
class Outcome:
    """What came of the requests of one show."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    ids: set[str] = field(default_factory=set)
    wrong: int = 0

    def row(self, label: str) -> str:
        answered = self.statuses[200]
        low, high = np.percentile(self.latencies or [np.nan], [50, 99])
        refused = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()) if status != 200)
        return (
            f"| {label} | {answered / self.seconds:.1f} | {low:.3f} | {high:.3f} | {answered} | {refused or 'none'} |"
        )


HEAD = "| | answered/s | p50, s | p99, s | answered | refused |\n|---|---|---|---|---|---|"


class Asker:
    """Asks numbered questions over HTTP."""

    def __init__(self, client: httpx2.AsyncClient, echo: bool) -> None:
        self._client, self._echo, self._numbers = client, echo, itertools.count()

    async def ask(self, outcome: Outcome, values: Sequence[str] = VALUES) -> None:
        question = f"May I keep coin number {next(self._numbers)} that I found on the way to the market?"
        body = {"question": question, "profile": dict.fromkeys(values, 1), "max_tokens": TOKENS}
        started = time.perf_counter()
        try:
            response = await self._client.post("/v1/answer", json=body)
        except httpx2.HTTPError:
            outcome.statuses[0] += 1
            return
        outcome.statuses[response.status_code] += 1
        if response.status_code != 200:
            return
        outcome.latencies.append(time.perf_counter() - started)
        found = response.json()
        outcome.wrong += found["id"] in outcome.ids or (self._echo and found["answer"] != question)
        outcome.ids.add(found["id"])


async def closed_loop(asker: Asker, clients: int, seconds: float) -> Outcome:
    """`clients` that each ask one question after another."""
    outcome, end = Outcome(), time.perf_counter() + seconds

    async def loop() -> None:
        while time.perf_counter() < end:
            await asker.ask(outcome)

    started = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(clients)))
    outcome.seconds = time.perf_counter() - started
    return outcome


async def open_loop(asker: Asker, rate: float, seconds: float) -> tuple[Outcome, int]:
    """`rate` requests a second, on a clock; returns how many were sent too."""
    outcome, tasks, started = Outcome(), [], time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(asker.ask(outcome)))
    await asyncio.gather(*tasks)
    outcome.seconds = time.perf_counter() - started
    return outcome, len(tasks)


async def one_by_one(call: Callable[[int], Awaitable[Any]], seconds: float) -> list[float]:
    """Seconds of calls that follow each other."""
    found, end = [], time.perf_counter() + seconds
    for number in itertools.count():
        started = time.perf_counter()
        await call(number)
        found.append(time.perf_counter() - started)
        if time.perf_counter() > end:
            return found
    raise AssertionError


def direct(agents: Any, aggregator: Any) -> Callable[[int], Awaitable[None]]:
    """The same two calls to actors, without Serve."""

    async def call(number: int) -> None:
        question = f"May I keep coin number {number} that I found on the way to the market?"
        heard: dict[str, str | None] = {}
        async for reference in agents.answer.remote(question, VALUES, TOKENS, 0.0):
            reply = await reference
            heard[reply.agent] = reply.text
        weights = (0.0, 1.0, 1.0, 0.0, 0.0)
        async for reference in aggregator.answer.remote(question, weights, heard, "dynamic", TOKENS, 0.0):
            await reference

    return call


async def show(port: int, token: str, echo: bool, actors: tuple[Any, Any], arguments: argparse.Namespace) -> None:
    """Run all three and print them."""
    limits = httpx2.Limits(max_connections=None)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=300, limits=limits
    ) as client:
        asker = Asker(client, echo)
        scratch = Outcome()
        for _ in range(3):
            await asker.ask(scratch)
        calls: Mapping[str, Callable[[int], Awaitable[Any]]] = {
            "actors called directly": direct(*actors),
            "the service over HTTP": lambda number: asker.ask(scratch),
            "the service, one value": lambda number: asker.ask(scratch, VALUES[:1]),
        }
        print("\n| one request at a time | p50, ms | p99, ms | n |\n|---|---|---|---|")
        for label, call in calls.items():
            found = np.array(await one_by_one(call, arguments.seconds)) * 1e3
            print(f"| {label} | {np.median(found):.1f} | {np.percentile(found, 99):.1f} | {len(found)} |")
        print(f"\n{HEAD.replace('| |', '| clients |', 1)}")
        sustained = 0.0
        for clients in arguments.clients:
            outcome = await closed_loop(asker, clients, arguments.seconds)
            sustained = max(sustained, outcome.statuses[200] / outcome.seconds)
            print(outcome.row(str(clients)), flush=True)
        outcome, sent = await open_loop(asker, 3 * sustained, arguments.seconds)
        print(f"\n{HEAD.replace('| |', '| sent |', 1)}\n{outcome.row(f'{sent}, {3 * sustained:.1f} a second')}")
        lost = sent - sum(outcome.statuses.values()) + outcome.statuses[0]
        print(f"\nlost: {lost}; answered twice or to another question: {outcome.wrong}")


def echo_application(hashes: Sequence[str]) -> Application:
    """The real ingress before deployments that echo."""
    options = {"max_ongoing_requests": 64, "max_queued_requests": 64, "ray_actor_options": {"num_cpus": 0.1}}
    agents, aggregator = (
        serve.deployment(kind).options(name=kind.__name__, **options).bind() for kind in (EchoAgents, EchoAggregator)
    )
    ingress: Any = serve.deployment(Ingress).options(
        name="Ingress", user_config=UNLIMITED.model_dump(), **DEFAULTS["Ingress"]
    )
    return ingress.bind(tuple(hashes), {"judge": "left out"}, None, [], dict.fromkeys(VALUES, agents), aggregator)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    arguments = parser.parse_args()
    token = new_token()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    connect()
    serve.start(ProxyLocation.HeadOnly, HTTPOptions(host="127.0.0.1", port=port))
    try:
        if arguments.config is None:
            application = echo_application([hash_token(token)])
            actors = tuple(ray.remote(kind).options(num_cpus=0.1).remote() for kind in (EchoAgents, EchoAggregator))
        else:
            config = load_config(ServeConfig, arguments.config).model_copy(
                update={"limits": UNLIMITED, "consensus": None}
            )
            assert config.agents is not None
            assert config.aggregator is not None
            application = bind(config, [hash_token(token)])
            saved = [read_adapters(folder.absolute()) for folder in (config.agents, config.aggregator)]
            plain = zip((PlainAgents, PlainAggregator), saved, strict=True)
            actors = tuple(ray.remote(kind).options(num_cpus=0.1).remote(each) for kind, each in plain)
        serve.run(application, name="consilience")
        asyncio.run(show(port, token, arguments.config is None, actors, arguments))
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
