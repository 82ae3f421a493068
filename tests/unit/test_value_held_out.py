"""Base and agent on held-out questions: known gains, situations drawn together, and what makes a gain suspect."""

import numpy as np
import pytest

from consilience.values.evaluation import Slice
from consilience.values.held_out import compare, suspicions
from consilience.values.question_data import by_digest


def whole(situations: list[str]) -> Slice:
    return Slice("all", np.ones(len(situations), dtype=bool), situations, seed=0)


def test_means_and_paired_gains_have_known_answers() -> None:
    base, agent = np.array([0.1, 0.3, np.nan, 0.9]), np.array([0.4, 0.6, 0.5, np.nan])
    found = compare(whole(["a", "b", "c", "d"]), base, agent)
    assert (found["base"], found["agent"], found["gain"], found["n"]) == pytest.approx((0.2, 0.5, 0.3, 2))
    assert (found["gain_low"], found["gain_high"]) == pytest.approx((0.3, 0.3)), "paired: each gained 0.3"
    assert (found["base_low"], found["base_high"]) == pytest.approx((0.1, 0.3))


def test_copies_of_a_situation_are_no_evidence() -> None:
    gains = np.random.default_rng(0).normal(size=50)
    apart = compare(whole([str(k) for k in range(50)]), np.zeros(50), gains)
    copied = compare(whole([str(k // 4) for k in range(200)]), np.zeros(200), np.repeat(gains, 4))
    assert [copied[key] for key in ("gain", "gain_low", "gain_high")] == pytest.approx(
        [apart[key] for key in ("gain", "gain_low", "gain_high")]
    )
    alone = compare(whole(["a"] * 50), np.zeros(50), gains)
    assert alone["gain"] == pytest.approx(gains.mean())
    assert alone["gain_low"] is alone["gain_high"] is None
    nothing = compare(whole(["a", "b"]), np.full(2, np.nan), np.zeros(2))
    assert nothing == {**dict.fromkeys(nothing), "n": 0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"reward": (-0.1, 0.2)}, ["no gain in held-out reward"]),
        ({"reward": (None, None)}, ["no gain in held-out reward"]),
        ({"judge": (-0.1, 0.2)}, ["the reward may have been gamed"]),
        ({"reward": (-0.1, 0.2), "judge": (-0.1, 0.2)}, ["no gain in held-out reward"]),
        ({"repetition": (0.1, 0.2), "ended": (-0.3, -0.1)}, ["repeats itself", "end by themselves"]),
    ],
)
def test_suspicions(changes: dict[str, tuple[float | None, float | None]], expected: list[str]) -> None:
    ends = {"reward": (0.1, 0.2), "judge": (0.1, 0.2), "repetition": (-0.1, 0.1), "ended": (-0.1, 0.1)} | changes
    rows = {name: {"gain_low": low, "gain_high": high} for name, (low, high) in ends.items()}
    found = suspicions("care", rows)
    assert len(found) == len(expected)
    assert all(part in note for part, note in zip(expected, found, strict=True))


def test_a_sample_by_digest_depends_on_ids_alone() -> None:
    names = [f"q{k}" for k in range(40)]
    assert by_digest(names) == by_digest(names[::-1]) != names
    kept = set(by_digest(names)[:10])
    assert kept <= set(by_digest(names)[:20]), "a larger sample keeps the smaller"
