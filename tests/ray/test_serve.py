"""The service on a real cluster and tiny real models: answers, streams, refuses, is left by clients, loses replicas."""

import copy
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from actors.cluster import connect
from consilience.theories import THEORY_NAMES

sys.path.append(str(Path(__file__).parents[1] / "unit"))
sys.path.append(str(Path(__file__).parents[1] / "e2e"))

from browser import CHROMIUM, open_page
from serve_models import save_tiny_runs

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600), pytest.mark.usefixtures("service")]

TOKEN = "a-token-for-the-tests-alone"
QUESTION = {"question": "May I keep what I found?", "profile": {"care": 1, "sanctity": 0.5}}
LONG = 600
LIMITS = {"max_tokens": LONG, "agent_tokens": 8, "answer_tokens": 12, "requests_per_minute": 100_000}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PORT = free_port()
os.environ.setdefault("RAY_worker_niceness", "0")


Schema = dict[str, Any]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    """As `serve deploy` reads it: no agent for sanctity, answers that may take long, queues that are short."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "token").write_text(TOKEN)
    small = {"max_ongoing_requests": 4, "max_queued_requests": 2, "ray_actor_options": {"num_cpus": 0.25}}
    application = {
        "name": "consilience",
        "import_path": "serve_app.app:build",
        "runtime_env": {"env_vars": {"CONSILIENCE_TOKEN_FILE": str(folder / "token")}},
        "args": {
            **save_tiny_runs(folder, ("care", "fairness")),
            "deployments": {"Agents": small, "Aggregator": small, "Judge": {"ray_actor_options": {"num_cpus": 0.01}}},
        },
        "deployments": [{"name": "Ingress", "user_config": LIMITS}],
    }
    return {"http_options": {"host": "127.0.0.1", "port": PORT}, "applications": [application]}


@pytest.fixture(scope="module")
def service(cluster: None, schema: Schema) -> Iterator[None]:
    connect()
    serve.start(ProxyLocation.HeadOnly, HTTPOptions(host="127.0.0.1", port=PORT))
    deploy(schema)
    yield
    serve.shutdown()


def deploy(schema: Schema) -> None:
    """What `serve deploy` does, without a dashboard in between; returns when all deployments run."""
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(schema))
    deadline = time.monotonic() + 200
    while (application := serve.status().applications.get("consilience")) is None or application.status != "RUNNING":
        assert time.monotonic() < deadline, application
        time.sleep(0.2)


def client(**options: Any) -> httpx2.Client:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx2.Client(base_url=f"http://127.0.0.1:{PORT}", headers=headers, timeout=60, **options)


def events(response: httpx2.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def replicas(deployment: str) -> list[Any]:
    return [
        ray.get_actor(actor["name"], namespace="serve")
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["namespace"] == "serve" and f"#{deployment}#" in actor["name"]
    ]


def test_endpoints() -> None:
    with client() as caller:
        assert caller.get("/healthz").json() == {"status": "alive"}
        assert caller.get("/readyz").json() == {"answer": "ready", "judge": "ready"}
        assert httpx2.post(f"http://127.0.0.1:{PORT}/v1/answer", json=QUESTION).status_code == 401
        response = caller.post("/v1/answer", json=QUESTION)
        found = response.json()
        assert response.status_code == 200, response.text
        assert found["id"] == response.headers["X-Request-ID"]
        care, sanctity = found["agents"]
        assert care["answer"]
        assert sanctity["problem"] == "there is no agent for this value here"
        assert found["answer"]
        assert 2 <= found["usage"]["completion_tokens"] <= 20
        body = {"model": "consilience", "messages": [{"role": "user", "content": "May I?"}]}
        assert caller.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        judged = caller.post("/v1/judge", json={"dilemma": "I lied to her."}).json()
        assert [verdict["theory"] for verdict in judged["verdicts"]] == list(THEORY_NAMES)
        assert [row["annotator"] for row in judged["missing"]] == ["a4"]
        assert "cannot start" in judged["missing"][0]["reason"]
        assert judged["verdicts"][0]["n_annotators"] == 4
        assert caller.post("/v1/answer", content=b"x" * 70_000).status_code == 413
        deadline = time.monotonic() + 30
        while "ray_consilience_tokens" not in (shown := caller.get("/metrics").text):
            assert time.monotonic() < deadline, shown[:2_000]
            time.sleep(1)


def test_nothing_listens_beyond_loopback() -> None:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_stream_is_the_same_answer_and_comes_in_pieces() -> None:
    with client() as caller:
        whole = caller.post("/v1/answer", json=QUESTION).json()
        with caller.stream("POST", "/v1/answer", json={**QUESTION, "stream": True}) as response:
            found = list(events(response))
    pieces = [data["text"] for name, data in found if name == "token"]
    assert "".join(pieces) == whole["answer"] == found[-1][1]["answer"]
    assert len(pieces) > 2
    assert found[-1][0] == "done"


@pytest.mark.parametrize("page", ["README.md", "docs/serving.md"])
def test_the_examples_of_the_docs(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8").replace("127.0.0.1:8000", f"127.0.0.1:{PORT}")
    examples = re.findall(r"^curl .*(?:\n    .*)*", text, re.MULTILINE)
    assert len(examples) == 2
    for example in examples:
        run = subprocess.run(
            ["bash", "-c", example], env={**os.environ, "CONSILIENCE_TOKEN": TOKEN}, capture_output=True, check=True
        )
        assert {"answer", "verdicts"} & set(json.loads(run.stdout)), run.stdout


def test_the_openai_client() -> None:
    text = (ROOT / "docs/serving.md").read_text(encoding="utf-8").replace("127.0.0.1:8000", f"127.0.0.1:{PORT}")
    (example,) = re.findall(r"^```python\n(from openai .*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"token": TOKEN}
    exec(example, names)
    message = {"role": "user", "content": "May I read my daughter's diary?"}
    stream = names["client"].chat.completions.create(
        model="consilience", messages=[message], extra_body={"moral_profile": {"care": 1}}, stream=True
    )
    pieces = [choice.delta.content or "" for chunk in stream for choice in chunk.choices]
    assert "".join(pieces) == names["reply"].choices[0].message.content
    assert len(pieces) > 2


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (chromium, chromium-browser or google-chrome)")
def test_the_page(tmp_path: Path) -> None:
    with open_page(tmp_path, f"http://127.0.0.1:{PORT}/") as page:
        page.run("document.getElementById('token').focus()")
        page.type(TOKEN)
        page.press("Enter", "\r")
        page.wait("!document.getElementById('service').hidden")
        page.run("document.getElementById('value-care').value = 1")
        page.run("document.getElementById('question').value = 'May I keep it?'")
        page.run("document.querySelector('#ask-form button[type=submit]').click()")
        page.wait("document.getElementById('answer-facts').textContent.includes('tokens')", 60)
        page.run("document.getElementById('tab-judge').click()")
        page.run("document.getElementById('dilemma').value = 'I kept it.'")
        page.run("document.querySelector('#judge-form button').click()")
        page.wait("document.querySelectorAll('#plot .consensus').length === 5", 60)
        assert page.problems == []


def test_a_client_that_leaves_makes_room_for_the_next() -> None:
    long = {"question": "May I?", "profile": {}, "max_tokens": LONG, "stream": True}
    with client() as caller:
        started = time.monotonic()
        with caller.stream("POST", "/v1/answer", json=long) as response:
            whole = list(events(response))[-1][1]
        long_s = time.monotonic() - started
        assert whole["usage"]["completion_tokens"] > LONG / 2, "or this proves nothing"
        with caller.stream("POST", "/v1/answer", json=long) as response:
            next(events(response))
        started = time.monotonic()
        assert caller.post("/v1/answer", json={**QUESTION, "profile": {}}).status_code == 200
        assert time.monotonic() - started < long_s / 2, "the answer that nobody waits for is still being written"


def test_who_does_not_fit_is_refused_and_nothing_is_lost() -> None:
    def ask(number: int) -> tuple[int, str | None, str]:
        with client() as caller:
            response = caller.post("/v1/answer", json={**QUESTION, "question": f"May I {number}?", "max_tokens": 60})
            return response.status_code, response.headers.get("Retry-After"), response.text

    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(ask, range(24)))
    statuses = [status for status, _, _ in found]
    assert set(statuses) == {200, 503}, statuses
    for status, retry_after, text in found:
        if status == 503:
            assert retry_after == "2"
            assert json.loads(text)["error"]["code"] == "busy"


def test_limits_change_without_a_restart(schema: Schema) -> None:
    before = [replica._actor_id for part in ("Ingress", "Aggregator") for replica in replicas(part)]
    assert len(before) == 2
    changed = copy.deepcopy(schema)
    changed["applications"][0]["deployments"][0]["user_config"]["question_chars"] = 3
    deploy(changed)
    deadline = time.monotonic() + 30
    with client() as caller:
        while (response := caller.post("/v1/answer", json=QUESTION)).status_code == 200:
            assert time.monotonic() < deadline
        assert "at most 3" in response.json()["error"]["message"]
        deploy(schema)
        while caller.post("/v1/answer", json=QUESTION).status_code == 422:
            assert time.monotonic() < deadline
    assert [replica._actor_id for part in ("Ingress", "Aggregator") for replica in replicas(part)] == before


@pytest.mark.parametrize("part", ["Agents", "Aggregator", "Ingress", "controller"])
def test_a_lost_process_is_replaced_and_every_request_has_an_answer(part: str) -> None:
    found: list[tuple[float, int]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            with client() as caller:
                try:
                    status = caller.post("/v1/answer", json={**QUESTION, "max_tokens": 4}).status_code
                except httpx2.HTTPError:
                    status = 0
            found.append((time.monotonic(), status))
            if status != 200:
                time.sleep(0.2)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    killed = time.monotonic()
    if part == "controller":
        ray.kill(ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve"), no_restart=False)
    else:
        (replica,) = replicas(part)
        ray.kill(replica)
    deadline = killed + 90
    while time.monotonic() < deadline and sum(when > killed + 3 and status == 200 for when, status in found) < 8:
        time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for _, status in found} <= {200, 503} | ({500} if part == "Ingress" else set()), found
    refused = sum(status != 200 for _, status in found)
    answered = sorted(when for when, status in found if status == 200)
    longest = max(after - before for before, after in itertools.pairwise(answered) if after > killed)
    print(f"\n{part} killed: {refused} of {len(found)} requests refused, {longest:.1f} s without an answer")
    assert found[-1][1] == 200
