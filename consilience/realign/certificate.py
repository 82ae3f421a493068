"""After training: what was gained on items that were held out, what it harmed, and whether it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.misalignment import confusion, f1_score
from consilience.intervals import Interval, interval
from consilience.realign.objective import bernoulli_js

Floats = NDArray[np.float64]

RAW = "raw"
KEPT, ROLLED_BACK = "kept", "rolled back"
DRAWS = 2_000
TOLERATED_HARM = 0.05
"""F1 that any other (annotator, theory) may lose at most."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Arms judged on the same held-out items.

    Attributes:
        items: how many.
        js, f1: per arm, against the target; F1 of the acceptable class at the threshold.
        js_gain, f1_gain: of the theory tokens over the head alone: what is claimed for them. Positive is better.
        js_gain_raw, f1_gain_raw: of head and tokens together over the raw model.
    """

    items: int
    js: dict[str, Interval]
    f1: dict[str, Interval]
    js_gain: Interval
    f1_gain: Interval
    js_gain_raw: Interval
    f1_gain_raw: Interval


def judge(scores: Mapping[str, Floats], target: Floats, tau: float = 0.5, seed: int = 0) -> HeldOut:
    """Compare the arms "raw", "head", "tokens" (and any other) on held-out items.

    Args:
        scores: (n,) per arm, 0..1; items where any arm has NaN are left out for all.
        target: (n,) 0..1.
        tau: threshold of both as labels.
        seed: of the paired bootstrap over items.
    """
    known = ~np.isnan(target) & np.all([~np.isnan(values) for values in scores.values()], axis=0)
    aim = target[known]
    said = {arm: values[known] for arm, values in scores.items()}
    draws = np.random.default_rng(seed).integers(0, len(aim), (DRAWS, len(aim)))
    rows = [np.arange(len(aim)), *draws]
    js = {arm: js_divergence(values, aim) for arm, values in said.items()}
    js_draws = {arm: np.array([values[row].mean() for row in rows]) for arm, values in js.items()}
    f1_draws = {arm: np.array([_f1(values[row] > tau, aim[row] > tau) for row in rows]) for arm, values in said.items()}
    return HeldOut(
        items=len(aim),
        js={arm: interval(values) for arm, values in js_draws.items()},
        f1={arm: interval(values) for arm, values in f1_draws.items()},
        js_gain=interval(js_draws["head"] - js_draws["tokens"]),
        f1_gain=interval(f1_draws["tokens"] - f1_draws["head"]),
        js_gain_raw=interval(js_draws[RAW] - js_draws["tokens"]),
        f1_gain_raw=interval(f1_draws["tokens"] - f1_draws[RAW]),
    )


def js_divergence(scores: Floats, target: Floats) -> Floats:
    """(n,) Bernoulli JS, item by item, in nats."""
    return bernoulli_js(torch.from_numpy(scores), torch.from_numpy(target)).numpy()


def _f1(said: NDArray[np.bool_], aim: NDArray[np.bool_]) -> float:
    """0 where neither side has a positive, so that a resample without any does not end the comparison."""
    positives = said.sum() + aim.sum()
    return float(2.0 * np.count_nonzero(said & aim) / positives) if positives else 0.0


def before_after(
    before: tuple[ScoreMatrix, Floats],
    after: tuple[ScoreMatrix, Floats],
    parents: Mapping[str, str],
    held_out: Mapping[str, NDArray[np.object_]],
    tau: float = 0.5,
) -> pd.DataFrame:
    """F1 of every annotator under every theory, against the consensus with and without the realigned models in it.

    Args:
        before, after: scores and joint consensus (N,) of the two pools; both consensus contain the judged annotator.
        parents: realigned annotator to the one whose place it took.
        held_out: theory to the items that no fit for it was trained on; items of other theories all count.
        tau: threshold.

    Returns:
        annotator (as before), theory, f1_before, f1_after, realigned (whether this annotator is replaced).
    """
    frames = []
    for matrix, consensus in (before, after):
        judged = consensus.copy()
        for theory, columns in matrix.theory_slices.items():
            if theory in held_out:
                judged[columns][~np.isin(matrix.items[columns].astype(str), held_out[theory].astype(str))] = np.nan
        f1 = f1_score(confusion(matrix, judged, tau))
        names = [parents.get(name, name) for name in matrix.annotators]
        index = pd.MultiIndex.from_product([matrix.theories, names], names=["theory", "annotator"])
        frames.append(pd.Series(f1.ravel(), index=index))
    table = pd.DataFrame({"f1_before": frames[0], "f1_after": frames[1].reindex(frames[0].index)}).reset_index()
    table["realigned"] = table["annotator"].isin(parents.values())
    return table[["annotator", "theory", "f1_before", "f1_after", "realigned"]]


def verdict(held_out: HeldOut, others: pd.DataFrame, tolerated: float = TOLERATED_HARM) -> tuple[str, list[str]]:
    """Kept or rolled back, and why.

    Kept is what comes nearer to the held-out target than the raw model beyond doubt (95 % interval of the JS), with
    tokens that are not worse than the head alone beyond doubt (in JS or in F1), and without costing any other annotator
    or theory more than `tolerated` of F1.

    Args:
        held_out: see `judge`.
        others: rows of `before_after` other than the realigned pair itself.
        tolerated: see `TOLERATED_HARM`.
    """
    reasons = []
    if held_out.js_gain_raw.low <= 0.0:
        gain = held_out.js_gain_raw
        reasons.append(f"JS gain over the raw model {gain.value:.3f} [{gain.low:.3f}, {gain.high:.3f}] may be none")
    if held_out.js_gain.high < 0.0:
        reasons.append(f"the tokens are worse than the head alone by {-held_out.js_gain.value:.3f} JS")
    if held_out.f1_gain.high < 0.0:
        reasons.append(f"the tokens are worse than the head alone by {-held_out.f1_gain.value:.2f} F1")
    loss = (others["f1_before"] - others["f1_after"]).to_numpy(dtype=np.float64)
    if len(loss) and not np.isnan(loss).all() and np.nanmax(loss) > tolerated:
        worst = others.iloc[int(np.nanargmax(loss))]
        reasons.append(f"{worst['annotator']} loses {np.nanmax(loss):.2f} F1 under {worst['theory']}")
    return (ROLLED_BACK if reasons else KEPT), reasons
