"""Gate and certificate on simulated pools: strong consensus passes, noise does not; gain, harm and roll-back."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.errors import UserError
from consilience.intervals import Interval
from consilience.realign.certificate import KEPT, ROLLED_BACK, HeldOut, before_after, judge, verdict
from consilience.realign.gate import assess
from consilience.realign.settings import GateConfig
from consilience.realign.target import leave_one_out

ITEMS = 150


def pool(separation: float, annotators: int = 5, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Scores of `annotators`, whose means in the two classes lie `separation` apart, and the truth."""
    random = np.random.default_rng(seed)
    truth = random.random(ITEMS) < 0.5
    rows = []
    for m in range(annotators):
        centre = 0.5 + separation * (truth - 0.5)
        for item, score in enumerate(np.clip(centre + random.normal(0, 0.12, ITEMS), 0.01, 0.99)):
            rows.append((f"i{item:03}", "deontology", f"m{m}", score))
    return pd.DataFrame(rows, columns=["item_id", "theory", "annotator", "score"]), truth


def test_the_target_does_not_know_the_judged_annotator() -> None:
    frame, _ = pool(0.4)
    target = leave_one_out(frame, "m0", TruncatedNormalEM(), descendants=["m1"])
    assert target.matrix.annotators == ["m2", "m3", "m4"]
    changed = frame.assign(score=frame["score"].where(~frame["annotator"].isin(["m0", "m1"]), 0.5))
    again = leave_one_out(changed, "m0", TruncatedNormalEM(), descendants=["m1"])
    pd.testing.assert_series_equal(target.of("deontology"), again.of("deontology"))
    with pytest.raises(UserError, match="annotator 'm0': 1 others have scores; expected at least two"):
        leave_one_out(frame[frame["annotator"].isin(["m0", "m1"])], "m0", TruncatedNormalEM())


def test_the_gate_lets_a_strong_consensus_pass_and_stops_at_noise() -> None:
    strong = assess(leave_one_out(pool(0.5)[0], "m0", TruncatedNormalEM()), "deontology", GateConfig())
    assert strong.passed, strong.reasons
    assert strong.votes > 3
    assert strong.stability > 0.95
    weak = assess(leave_one_out(pool(0.0)[0], "m0", TruncatedNormalEM()), "deontology", GateConfig())
    assert not weak.passed
    assert any("independent annotators share a signal" in reason for reason in weak.reasons)
    assert strong.alpha is not None
    assert weak.alpha is not None
    assert strong.alpha > 0.5 > 0.1 > weak.alpha


def test_items_that_no_other_has_judged_do_not_count() -> None:
    frame, _ = pool(0.0)
    unjudged = (frame["item_id"] < "i100") & (frame["annotator"] != "m0")
    gaps = frame.assign(score=frame["score"].mask(unjudged))
    with_gaps, without = (
        assess(leave_one_out(part, "m0", TruncatedNormalEM()), "deontology", GateConfig())
        for part in (gaps, frame[frame["item_id"] >= "i100"])
    )
    assert with_gaps.items == without.items == 50
    assert with_gaps.decided == pytest.approx(without.decided, abs=0.03)
    assert with_gaps.stability == pytest.approx(without.stability, abs=0.05)
    assert with_gaps.stability < 0.9


def test_gold_labels_are_as_stable_as_gold() -> None:
    frame, truth = pool(0.5)
    gold = pd.DataFrame({"item_id": [f"i{item:03}" for item in range(40)], "theory": "deontology", "label": 1.0})
    found = assess(leave_one_out(frame, "m0", TruncatedNormalEM(), gold=gold), "deontology", GateConfig())
    assert truth[:40].mean() < 0.7
    assert found.stability > 0.98


def test_a_theory_that_no_other_has_judged_is_no_target() -> None:
    target = leave_one_out(pool(0.5)[0], "m0", TruncatedNormalEM())
    with pytest.raises(UserError, match="theory 'virtue': judged by no other; expected one of deontology"):
        target.of("virtue")


def arms(tokens_right: float, raw_right: float = 0.6, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    random = np.random.default_rng(seed)
    target = (random.random(ITEMS) < 0.5).astype(float)

    def answer(right: float) -> np.ndarray:
        correct = random.random(ITEMS) < right
        return np.where(correct, target, 1 - target) * 0.6 + 0.2

    return {"raw": answer(raw_right), "head": answer(0.8), "tokens": answer(tokens_right)}, target


def test_a_gain_is_found_with_its_interval() -> None:
    scores, target = arms(0.97)
    found = judge(scores, target)
    assert found.items == ITEMS
    assert found.f1_gain.low < found.f1_gain.value < found.f1_gain.high
    assert found.f1_gain.value == pytest.approx(found.f1["tokens"].value - found.f1["head"].value)
    assert found.js_gain_raw.low > 0
    scores["tokens"][:10] = np.nan
    assert judge(scores, target).items == ITEMS - 10


def held_out(tokens_right: float) -> HeldOut:
    return judge(*arms(tokens_right))


def others(loss: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "annotator": ["m1", "m2"],
            "theory": ["virtue"] * 2,
            "f1_before": [0.8, np.nan],
            "f1_after": [0.8 - loss, np.nan],
        }
    )


def test_kept_and_rolled_back() -> None:
    assert verdict(held_out(0.97), others(0.0)) == (KEPT, [])
    assert verdict(held_out(0.97), others(0.04))[0] == KEPT
    final, reasons = verdict(held_out(0.97), others(0.2))
    assert (final, reasons) == (ROLLED_BACK, ["m1 loses 0.20 F1 under virtue"])
    final, reasons = verdict(held_out(0.6), others(0.0))
    assert final == ROLLED_BACK
    assert "over the raw model" in reasons[0]
    assert "worse than the head alone" in reasons[1]
    nearer = held_out(0.97)
    spoilt = replace(nearer, f1_gain=Interval(-0.2, -0.3, -0.1))
    assert verdict(spoilt, others(0.0)) == (ROLLED_BACK, ["the tokens are worse than the head alone by 0.20 F1"])


def test_before_and_after_count_held_out_items_only() -> None:
    frame, truth = pool(0.5)
    wrong = frame["annotator"] == "m0"
    before = frame.assign(score=frame["score"].where(~wrong, 1 - frame["score"]))
    after = frame.assign(annotator=frame["annotator"].where(~wrong, "m0@realigned"))
    pools = [ScoreMatrix.from_frame(part) for part in (before, after)]
    joint = [(matrix, TruncatedNormalEM().fit(matrix).gamma_) for matrix in pools]
    held = {"deontology": np.array([f"i{item:03}" for item in range(30)], dtype=object)}
    table = before_after(joint[0], joint[1], {"m0@realigned": "m0"}, held)
    row = table.set_index("annotator").loc["m0"]
    assert row["realigned"]
    assert row["f1_before"] < 0.1
    assert row["f1_after"] > 0.9
    assert table.loc[~table["realigned"], "f1_after"].min() > 0.85
    np.testing.assert_array_equal(joint[0][1] > 0.5, truth)
