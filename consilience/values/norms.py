"""Which values a norm of Moral Stories is about: as people said of the same rule of thumb, else as predicted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from consilience.theories import VALUE_NAMES
from consilience.values.about import UNTRAINED
from consilience.values.classifier import classify, load_classifier
from consilience.values.examples import HUMAN, PREDICTED, RELEVANCE


def human_values(norms: pd.DataFrame) -> pd.DataFrame:
    """Values of Social Chemistry's rules of thumb: 1 where at least half of a rule's annotators name the foundation.

    Args:
        norms: of `read_social_chemistry`.

    Returns:
        a column per value, 1 or 0, indexed by the rule's exact text.
    """
    return (norms.groupby("rot")[list(VALUE_NAMES)].mean() >= 0.5).astype(float)


def norm_profiles(texts: Sequence[str], norms: pd.DataFrame, run: Path) -> pd.DataFrame:
    """The values that each norm is about, one row per text, in order.

    A norm that equals a rule of thumb of `norms` (the exact text) has its values from people. Every other norm is about
    the values whose relevance classifier in `run`, a run folder of train_values, reaches its threshold.

    Returns:
        `norm`, a column per value (1 or 0), `profile_source` (human or predicted).

    Raises:
        UserError: `run` has no relevance classifier.
    """
    known = human_values(norms)
    frame = known.reindex(pd.Index(texts)).rename_axis("norm").reset_index()
    human = frame["norm"].isin(known.index)
    model, about = load_classifier(run / RELEVANCE)
    heads = [about.heads[value] for value in VALUE_NAMES]
    thresholds = np.array([np.inf if head.verdict == UNTRAINED else head.threshold for head in heads])
    said = classify(model, about, frame.loc[~human, "norm"].tolist()) >= thresholds
    frame.loc[~human, list(VALUE_NAMES)] = said.astype(float)
    return frame.assign(profile_source=np.where(human, HUMAN, PREDICTED))
