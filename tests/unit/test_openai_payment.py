"""What an API charges is paid once, whatever is killed, lost or full, and never beyond the cap."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import ChatServer
from openai_checks import DILEMMAS, PRICES, annotator, assert_each_billed_once, draw, expected, score, serving

from consilience.errors import UserError
from consilience.lm.ledger import Ledger, spent_usd
from consilience.lm.openai_annotator import price_bound
from consilience.lm.openai_scorer import OpenAIScorer
from consilience.lm.scorer import FAILED
from consilience.theories import THEORIES

ROOT = Path(__file__).parents[2]
KILLED = """
import sys
from pathlib import Path
from consilience.lm.openai_annotator import OpenAIAnnotator
from consilience.lm.openai_scorer import OpenAIScorer
from consilience.theories import THEORIES
config = OpenAIAnnotator.model_validate_json(sys.argv[1])
OpenAIScorer(config, Path(sys.argv[2])).score(sys.argv[3:], THEORIES)
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    with serving(monkeypatch) as running:
        yield running


def test_another_folder_is_answered_anew(server: ChatServer, tmp_path: Path) -> None:
    """The sample that measures a score's noise must not get the first answers again."""
    first = score(annotator(server), tmp_path / "first")
    assert np.array_equal(score(annotator(server), tmp_path / "first").score, first.score)
    assert_each_billed_once(server, first.score.size)
    score(annotator(server), tmp_path / "second")
    assert_each_billed_once(server, 2 * first.score.size)
    assert not server.replayed


def test_a_killed_process_pays_for_no_answer_again(server: ChatServer, tmp_path: Path) -> None:
    server.latency = 0.02
    config = annotator(server, concurrency=4, **PRICES)
    for round_ in range(2):
        command = [sys.executable, "-c", KILLED, config.model_dump_json(), str(tmp_path), *DILEMMAS]
        process = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + 20
        while len(server.billed) < 12 * (round_ + 1):
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert spent_usd(tmp_path) >= server.billed_usd
    before = len(server.billed)
    assert before < len(DILEMMAS) * len(THEORIES)
    server.latency = 0
    scorer = OpenAIScorer(config, tmp_path)
    found = scorer.score(DILEMMAS, THEORIES)
    np.testing.assert_allclose(found.score, expected(config), atol=1e-12)
    assert_each_billed_once(server, found.score.size)
    assert server.replayed.total() <= 2 * config.concurrency, "more was asked again than was in flight"
    assert scorer.cost_usd >= server.billed_usd


def test_an_answer_that_cannot_be_written_is_not_paid_again(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = annotator(server, concurrency=4, **PRICES)
    append = Ledger._append
    written = 0

    def full_disk(ledger: Ledger, line: dict[str, Any]) -> tuple[Path, int]:
        nonlocal written
        written += "answer" in line
        if written > 9:
            raise UserError("no space left")
        return append(ledger, line)

    monkeypatch.setattr(Ledger, "_append", full_disk)
    with pytest.raises(UserError, match="no space left"):
        score(config, tmp_path)
    monkeypatch.undo()
    assert len(server.billed) < len(DILEMMAS) * len(THEORIES)
    np.testing.assert_allclose(score(config, tmp_path).score, expected(config), atol=1e-12)
    assert_each_billed_once(server, len(DILEMMAS) * len(THEORIES))
    assert server.replayed.total() <= config.concurrency


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for key in ("a", "b"):
        ledger.reserve(key, 2.0)
        ledger.settle(key, 2.0, 0.5, {"reply": key})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    again = Ledger(tmp_path)
    assert again.answer("a") == {"reply": "a"}
    assert again.answer("b") is None
    assert again.cost_usd == pytest.approx(2.5)
    again.settle("b", 0.0, 0.0, {"reply": "b"})
    assert Ledger(tmp_path).answer("b") == {"reply": "b"}


@pytest.mark.parametrize("bills", [True, False])
@pytest.mark.parametrize("faulty", [False, True])
def test_the_cost_cap_is_never_passed(
    server: ChatServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, bills: bool, faulty: bool
) -> None:
    server.bills, server.latency = bills, 0.002
    if faulty:
        server.fault = lambda seen: ("lost", "half", None)[(draw(seen) + seen.earlier) % 3]
    cap = 0.01 if faulty else 0.0015
    config = annotator(server, concurrency=16, cost_cap_usd=cap, **PRICES)
    found = score(config, tmp_path)
    failed = found.status == FAILED
    assert 0 < failed.sum() < failed.size
    assert server.billed_usd <= cap
    assert spent_usd(tmp_path) <= cap
    assert [r.levelname for r in caplog.records if "cost cap" in r.message] == ["ERROR"]
    if bills and not faulty:
        bound = max(price_bound(config, seen.body) for seen in server.requests)
        assert server.billed_usd > cap - 2 * bound, "it stopped long before the cap"
    score(config, tmp_path)
    assert server.billed_usd <= cap, "a new process began to count anew"
    rest = annotator(server, cost_cap_usd=1.0, **PRICES)
    np.testing.assert_allclose(score(rest, tmp_path).score, expected(config), atol=1e-12)
    assert_each_billed_once(server, failed.size)
