"""What a fitted consensus says about the tasks of one matrix, be it all tasks or one shard of them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consilience.consensus.baselines import mean
from consilience.consensus.calibrated import CalibratedModel
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.misalignment import confusion
from consilience.consensus.model import consensus_table


@dataclass(frozen=True, eq=False)
class Outcome:
    """The consensus of some tasks, and how annotators agree with it.

    Attributes:
        table: the `consensus` table of the tasks.
        against_em, against_mean: (T, M, 4) confusion counts; those of disjoint sets of tasks add up.
    """

    table: pd.DataFrame
    against_em: NDArray[np.int64]
    against_mean: NDArray[np.int64]


def outcome(matrix: ScoreMatrix, gamma: NDArray[np.float64], calibrated: CalibratedModel, tau: float) -> Outcome:
    """Consensus table and confusion counts at threshold `tau` of tasks with posterior `gamma` (N,)."""
    plain = mean(matrix)
    values = calibrated.predict(matrix)
    table = consensus_table(matrix, gamma).assign(
        mean=plain, calibrated=values.consensus, sd=values.sd, ci_low=values.ci_low, ci_high=values.ci_high
    )
    return Outcome(table, confusion(matrix, gamma, tau), confusion(matrix, plain, tau))
