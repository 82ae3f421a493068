"""The web page in a real browser, by mouse and by keyboard, on models that are not there."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from browser import CHROMIUM, Page, open_page
from serve_fakes import TOKEN, Setting, judging, make_setting, small_consensus

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (chromium, chromium-browser or google-chrome)")

SPLIT = {"a0": 0.9, "a1": 0.95, "a2": 0.05, "a3": 0.9}


@pytest.fixture(scope="module")
def setting() -> Setting:
    return make_setting(small_consensus(), judge=judging({"a0": 0.9, "a1": 0.8, "a2": 0.45, "a3": 0.85}))


@pytest.fixture(scope="module")
def page(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    server = uvicorn.Server(uvicorn.Config(setting.app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    with open_page(tmp_path_factory.mktemp("chromium"), f"http://127.0.0.1:{port}/") as page:
        yield page
    server.should_exit = True
    thread.join(timeout=10)


def picture(page: Page, name: str) -> None:
    """Kept where SERVE_PICTURES says, to be looked at."""
    if folder := os.environ.get("SERVE_PICTURES"):
        page.picture(Path(folder) / f"{name}.png")


def shown(page: Page, element: str) -> str:
    return str(page.run(f"document.getElementById('{element}').innerText"))


def test_page(page: Page, setting: Setting) -> None:
    page.look(1_100, 900)
    # A wrong token, then the right one, both typed.
    page.run("document.getElementById('token').focus()")
    page.type("wrong")
    page.press("Enter", "\r")
    page.wait("document.getElementById('token-problem').textContent.includes('unknown token')")
    page.problems.clear()  # the 401 that was asked for
    page.run("document.getElementById('token').value = ''")
    page.type(TOKEN)
    page.press("Enter", "\r")
    page.wait("!document.getElementById('service').hidden")
    assert page.run("document.querySelectorAll('#sliders input').length") == 5

    # Ask by keyboard alone: question, a slider, the button.
    page.run("document.getElementById('question').focus()")
    page.type("May I <b>read</b> it?")
    page.press("Tab")
    page.press("Tab")
    assert page.run("document.activeElement.id") == "value-care"
    for _ in range(2):
        page.press("ArrowRight")
    assert page.run("document.activeElement.getAttribute('aria-valuetext')") == "moderately"
    page.run("document.querySelector('#ask-form button[type=submit]').focus()")
    page.press("Enter", "\r")
    page.wait("document.getElementById('answer-facts').textContent.includes('tokens')")
    assert shown(page, "answer") == "Heard care: Mind care.."
    assert "probability 0.75" in shown(page, "voices")
    assert setting.agents.calls[-1][0] == "May I <b>read</b> it?"
    assert setting.aggregator.calls[-1][1] == (0, 0.5, 0, 0, 0)
    picture(page, "ask")

    # Judge: the tabs by arrow keys, the plot, the table, then a pool that is split.
    page.run("document.getElementById('tab-ask').focus()")
    page.press("ArrowRight")
    assert page.run("document.activeElement.id") == "tab-judge"
    page.run("document.getElementById('dilemma').focus()")
    page.type("I lied to her.")
    page.run("document.querySelector('#judge-form button').click()")
    page.wait("!document.getElementById('verdict').hidden")
    assert page.run("document.querySelectorAll('#plot .consensus').length") == 5
    assert page.run("document.querySelectorAll('#plot .mark').length") == 20
    assert "utilitarianism" in page.run("document.querySelector('#plot svg').getAttribute('aria-label')")
    assert "Missing: a4" in shown(page, "reasons")
    page.run("document.querySelector('details').open = true")
    assert page.run("document.querySelectorAll('#numbers tr').length") == 6
    picture(page, "judge")
    setting.judge.function = judging(SPLIT)
    page.run("document.querySelector('#judge-form button').click()")
    page.wait("document.getElementById('reasons').innerText.includes('the witnesses split')")

    # A phone, in the dark: nothing wider than the window.
    page.look(360, 740, dark=True)
    for tab in ("judge", "ask"):
        page.run(f"document.getElementById('tab-{tab}').click()")
        page.wait("document.documentElement.scrollWidth <= 360")
        picture(page, f"{tab}-phone")
    unlabelled = "[...document.querySelectorAll('input, textarea, select')].filter((e) => !e.labels.length).length"
    assert page.run(unlabelled) == 0
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 27)"
    assert page.problems == [], "neither errors nor anything that the content policy forbids"


def test_what_is_refused_is_shown(page: Page, setting: Setting) -> None:
    page.look(1_100, 900)
    page.run("document.getElementById('tab-ask').click()")
    page.run("document.getElementById('question').value = 'x'.repeat(5000)")
    page.run("document.querySelector('#ask-form button[type=submit]').click()")
    page.wait("document.getElementById('ask-problem').textContent.includes('5000 characters; at most 4000')")
