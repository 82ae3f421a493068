"""Base and agent side by side on held-out questions: means, paired gains and how sure they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consilience.values.evaluation import Slice

Floats = NDArray[np.float64]


def compare(part: Slice, base: Floats, agent: Floats) -> dict[str, Any]:
    """Means of a measure over the questions where both have it, and of its gain, agent less base, question by question.

    Args:
        base, agent: (n,), NaN where missing.

    Returns:
        `base`, `agent`, `gain`, each also with `_low` and `_high`, the ends of its interval (see `Slice.figures`), and
        `n`.
    """
    pair = np.column_stack([base, agent])
    ours, theirs = part.means(pair).T
    return part.figures(pair, base=ours, agent=theirs, gain=theirs - ours)


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
