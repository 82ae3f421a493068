"""Whatever is sent, no answer is a 500: bodies that are nearly right, bodies that are not, and mere bytes."""

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serve_fakes import HEADERS, make_setting, small_consensus
from starlette.testclient import TestClient

from consilience.theories import THEORY_NAMES, VALUE_NAMES
from serve_app.config import Limits

POSTS = ("/v1/answer", "/v1/judge", "/v1/chat/completions")
STATUSES = {200, 400, 404, 413, 422}

text = st.text(st.characters(), max_size=40) | st.sampled_from(["x" * 5_000, "\ud800", "\x00", "🤷", "؟هل يجوز", " "])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)
number = st.floats(0, 1) | st.integers(0, 1)


def mostly(valid: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(valid, valid, valid, anything)


profile = st.dictionaries(st.sampled_from([*VALUE_NAMES, "greed"]), mostly(number), max_size=5)
message = st.fixed_dictionaries({"role": mostly(st.just("user")), "content": mostly(text)})
common = {"context": mostly(st.sampled_from(["full", "dynamic"])), "max_tokens": mostly(st.integers(1, 256))}
common |= {"temperature": mostly(number), "stream": mostly(st.booleans())}
BODIES = {
    "/v1/answer": st.fixed_dictionaries({"question": mostly(text), "profile": mostly(profile)}, optional=common),
    "/v1/judge": st.fixed_dictionaries(
        {"dilemma": mostly(text)}, optional={"theories": mostly(st.lists(st.sampled_from(THEORY_NAMES), max_size=6))}
    ),
    "/v1/chat/completions": st.fixed_dictionaries(
        {"model": mostly(st.just("consilience")), "messages": mostly(st.lists(message, min_size=1, max_size=2))},
        optional={**common, "moral_profile": mostly(profile), "n": mostly(st.just(1)), "tools": anything},
    ),
}


DOCUMENT = schemathesis.openapi.from_asgi(
    "/openapi.json", make_setting(small_consensus(), Limits(requests_per_minute=10_000_000)).app
)


@DOCUMENT.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_it_keeps_to_its_openapi_document(case: schemathesis.Case) -> None:
    # What fits the document may still pass a limit, which each deployment sets, or name another model.
    headers = {"Authorization": HEADERS["Authorization"]}
    case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])


@pytest.fixture(scope="module")
def caller() -> Any:
    setting = make_setting(small_consensus(), Limits(requests_per_minute=10_000_000))
    with TestClient(setting.app, headers=HEADERS, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("path", POSTS)
def test_no_body_breaks_it(caller: TestClient, path: str) -> None:
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(BODIES[path] | anything)
    def check(body: Any) -> None:
        response = caller.post(path, content=json.dumps(body))
        assert response.status_code in STATUSES, (response.status_code, response.text)
        if response.status_code != 200:
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert "\n" not in error["message"].strip("\n") or response.status_code == 400

    check()


@given(st.binary(max_size=200), st.sampled_from(POSTS))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_bytes_break_it(caller: TestClient, body: bytes, path: str) -> None:
    for kind in (
        "application/json",
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-7",
    ):
        response = caller.post(path, content=body, headers={"Content-Type": kind})
        assert response.status_code in STATUSES - {200} | {415}, (response.status_code, response.text)
