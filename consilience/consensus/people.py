"""How near a consensus is to people: correlation, absolute error, cross-entropy."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

CLIP = 1e-3
"""A consensus of exactly 0 or 1 is read as this far from it, so that its cross-entropy is finite."""


def against_people(consensus: NDArray[np.float64], share: NDArray[np.float64]) -> dict[str, float | None]:
    """Fit of a consensus to people's shares on the tasks that have both.

    Args:
        consensus, share: (n,) in [0, 1]; NaN = missing.

    Returns:
        `r` Pearson correlation (None where either is constant), `mae` mean absolute error, `ce` cross-entropy in nats
        of people's share under the consensus, -h ln c - (1 - h) ln(1 - c); all None without a common task.
    """
    both = ~np.isnan(consensus) & ~np.isnan(share)
    c, h = consensus[both], share[both]
    if not len(c):
        return {"r": None, "mae": None, "ce": None}
    r = float(np.corrcoef(c, h)[0, 1]) if np.ptp(c) > 0 and np.ptp(h) > 0 else None
    p = np.clip(c, CLIP, 1 - CLIP)
    cross_entropy = float(-(h * np.log(p) + (1 - h) * np.log1p(-p)).mean())
    return {"r": r, "mae": float(np.abs(c - h).mean()), "ce": cross_entropy}


def calibration_curve(consensus: NDArray[np.float64], share: NDArray[np.float64], bins: int = 10) -> pd.DataFrame:
    """Mean consensus and mean share of people in bins of equal width of the consensus, empty bins left out.

    Args:
        consensus, share: (n,) in [0, 1]; NaN = missing.

    Returns:
        consensus, people (both 0..1) and n; a calibrated consensus has the first two equal.
    """
    both = pd.DataFrame({"consensus": consensus, "people": share}).dropna()
    part = np.minimum((both["consensus"] * bins).astype(int), bins - 1)
    return both.groupby(part).mean().assign(n=both.groupby(part).size()).reset_index(drop=True)
