"""How much an annotator's score changes when the same question is put again: the noise of measurement.

The noise is in the scores already, so it widens an annotator's fitted sigmas by itself; adding it once more would be
wrong. What it rules out is a sigma below it: `TruncatedNormalEM(noise_sd=...)` takes it as the floor.
"""

import numpy as np
import pandas as pd

from consilience.errors import UserError

KEYS = ["item_id", "theory", "annotator"]


def measurement_noise(annotations: pd.DataFrame, repeats: pd.DataFrame) -> pd.DataFrame:
    r"""The noise of each annotator from scores given twice, under another batch or order the second time.

    $\hat\tau_m^2 = \frac{1}{2n} \sum (a - a')^2$ over the n scores that both tables have: half the mean squared
    difference of two measurements with the same error variance. A change of level between the two counts as noise.

    Args:
        annotations: item_id, theory, annotator, score; missing scores do not count.
        repeats: the same columns, for a sample of the same rows.

    Returns:
        annotator, noise_sd (score units), noise_share (of the variance of its scores; missing where these do not
        vary), shift (mean change from the first time to the second) and n, sorted by annotator.

    Raises:
        UserError: a missing column, a repeated key, or no score that both tables have.
    """
    for name, table in (("annotations", annotations), ("repeats", repeats)):
        for column in [*KEYS, "score"]:
            if column not in table.columns:
                raise UserError(f"{name}: missing column '{column}'; expected {', '.join(KEYS)}, score")
        repeated = table.duplicated(KEYS).to_numpy()
        if repeated.any():
            raise UserError(f"{name}: row {np.argmax(repeated) + 1}: expected one row per item_id x theory x annotator")
    scored = annotations.dropna(subset=["score"])
    pairs = scored.merge(repeats.dropna(subset=["score"]), on=KEYS, suffixes=("", "_again"))
    if pairs.empty:
        raise UserError("repeats: no row names an item_id, theory and annotator that annotations has a score for")
    change = pairs["score_again"] - pairs["score"]
    grouped = pairs.assign(change=change, half_square=0.5 * change**2).groupby("annotator")
    noise = grouped["half_square"].mean()
    variance = scored.groupby("annotator")["score"].var(ddof=0).reindex(noise.index)
    return pd.DataFrame(
        {
            "noise_sd": np.sqrt(noise),
            "noise_share": (noise / variance.where(variance > 0.0)).clip(upper=1.0),
            "shift": grouped["change"].mean(),
            "n": grouped.size(),
        }
    ).reset_index()


def noise_floor(noise: pd.DataFrame) -> float:
    """Root mean square over annotators of `noise_sd`: how far a score is from its repeat's mean, by noise alone."""
    return float(np.sqrt(np.mean(noise["noise_sd"] ** 2)))
