"""What a model is pulled towards: the consensus of all the others, frozen before training."""

import warnings
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.model import ConsensusModel
from consilience.errors import UserError


@dataclass(frozen=True, eq=False)
class Target:
    """The consensus without one annotator: a target that contained it would flatter it.

    Attributes:
        matrix: the others' scores.
        model: the EM fitted to them; None where they are two, whose consensus is their mean.
        gamma: (N,) the consensus of each task of `matrix`.
        gold: the labels that the fit was given, as `TruncatedNormalEM.fit` takes them.
    """

    matrix: ScoreMatrix
    model: ConsensusModel | None
    gamma: NDArray[np.float64]
    gold: pd.DataFrame | None = None

    def of(self, theory: str) -> pd.Series:
        """The target under one theory by item_id, 0..1; items without one are left out.

        Raises:
            UserError: the others have judged nothing under `theory`.
        """
        if theory not in self.matrix.theories:
            raise UserError(f"theory '{theory}': judged by no other; expected one of {', '.join(self.matrix.theories)}")
        columns = self.matrix.theory_slices[theory]
        return pd.Series(self.gamma[columns], index=self.matrix.items[columns], name="target").dropna()


def leave_one_out(
    annotations: pd.DataFrame,
    annotator: str,
    em: TruncatedNormalEM,
    descendants: Collection[str] = (),
    gold: pd.DataFrame | None = None,
) -> Target:
    """Fit `em` to the annotations of all but `annotator` and its realigned `descendants`, and to `gold` if given.

    Raises:
        UserError: fewer than two others.
    """
    others = annotations[~annotations["annotator"].isin([annotator, *descendants])]
    count = others.loc[others["score"].notna(), "annotator"].nunique()
    if count < 2:
        raise UserError(f"annotator '{annotator}': {count} others have scores; expected at least two to align it with")
    matrix = ScoreMatrix.from_frame(others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two annotators: the gate says so
        em.fit(matrix, gold)
    return Target(matrix, em.model_, em.gamma_, gold)
