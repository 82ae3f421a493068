"""Bootstrap intervals: what belongs together is drawn together, and all that is compared shares its resamples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


def draw_situations(situations: Sequence[str], draws: int, seed: int) -> tuple[NDArray[np.int64], Floats]:
    """Resamples of the s situations of n rows.

    Returns:
        (n,) the number of each row's situation, and (1 + draws, s) how often each situation counts; the first row is
        the sample itself.
    """
    number, names = pd.factorize(np.asarray(situations, dtype=object))
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return number, np.concatenate([np.ones((1, len(names))), drawn])


def interval(figures: Floats) -> Interval:
    """Of (1 + draws,) figures, the sample's own first; resamples in which the figure is not defined are left out."""
    if np.isnan(figures[0]):
        return Interval(np.nan, np.nan, np.nan)
    low, high = np.nanquantile(figures[1:], [0.5 * (1 - LEVEL), 0.5 * (1 + LEVEL)])
    return Interval(float(figures[0]), float(low), float(high))


def norm_interval(norm: float, errors: Floats) -> Interval:
    """Of a vector's L1 norm that is 1 at most, such as an expected calibration error.

    A norm of what is known with noise is too large on average, and a resample's is larger still: percentiles of
    resampled norms need hold neither the sample's norm nor the true one. But two norms are no further apart than their
    vectors, so the interval reaches as far to both sides as the norm of 95 % of the errors; it covers at least that
    often, on large samples.

    Args:
        norm: of the sample's vector.
        errors: (draws, k), each resample's vector less the sample's.
    """
    reach = float(np.quantile(np.abs(errors).sum(axis=1), LEVEL))
    return Interval(norm, max(0.0, norm - reach), min(1.0, norm + reach))


def or_none(figure: float | None) -> float | None:
    """As a table holds it: null where it is not defined or not finite."""
    return None if figure is None or not np.isfinite(figure) else float(figure)
