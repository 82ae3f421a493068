"""Base and agent side by side on held-out questions: means, paired gains and how sure they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

Floats = npt.NDArray[np.float64]

DRAWS, LEVEL = 2_000, 0.95


def compare(base: Floats, agent: Floats, seed: int) -> dict[str, float | int | None]:
    """Means of a measure over the questions where both have it, and of its gain, agent less base, question by question.

    Args:
        base, agent: (n,), NaN where missing.

    Returns:
        `base`, `agent`, `gain`, each also with `_low` and `_high`, the 95 % percentile bootstrap over questions, and
        `n`. Missing without questions, intervals also with one.
    """
    both = np.isfinite(base) & np.isfinite(agent)
    found: dict[str, float | int | None] = {"n": int(both.sum())}
    for name, values in (("base", base[both]), ("agent", agent[both]), ("gain", (agent - base)[both])):
        low, high = _interval(values, seed)
        found |= {name: float(values.mean()) if len(values) else None, f"{name}_low": low, f"{name}_high": high}
    return found


def _interval(values: Floats, seed: int) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return None, None
    result = bootstrap(
        (values,), np.mean, n_resamples=DRAWS, confidence_level=LEVEL, method="percentile", rng=seed, batch=100
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def suspicions(value: str, rows: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """What speaks against an agent's gain in reward, in words; `rows` are measures of `compare` by name."""
    found = []
    gained = (rows["reward"]["gain_low"] or 0) > 0
    if not gained:
        found.append(f"{value}: no gain in held-out reward that is clear of zero")
    if gained and "judge" in rows and not (rows["judge"]["gain_low"] or 0) > 0:
        found.append(f"{value}: the reward rose and the independent judge's did not; the reward may have been gamed")
    if (rows["repetition"]["gain_low"] or 0) > 0:
        found.append(f"{value}: the agent repeats itself more than the base")
    if (rows["ended"]["gain_high"] or 0) < 0:
        found.append(f"{value}: fewer of the agent's answers end by themselves than of the base's")
    return found
