"""Several perspectives instead of one: a consensus of each group of annotators, and where the groups differ."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2, false_discovery_control

from consilience.consensus.baselines import score_count
from consilience.consensus.calibrated import fit_calibrated
from consilience.consensus.matrix import ScoreMatrix
from consilience.errors import UserError

Floats = NDArray[np.float64]

CONTESTED_Q = 0.05
"""Expected share of false finds among the tasks that are called contested."""


def group_consensus(matrix: ScoreMatrix, groups: Mapping[str, str]) -> pd.DataFrame:
    """The consensus of each group of annotators on its own, as `consensus.calibrated` has it of the whole pool.

    A group is judged by itself: one that holds the opposite of another is a perspective here, not an inverted side. A
    group of fewer than three annotators, or one with no common signal, gets its plain mean and is marked so.

    Args:
        matrix: scores of the whole pool.
        groups: annotator -> group; annotators that are not in it belong to no group.

    Returns:
        item_id, theory, group, consensus, sd, n_annotators and method (calibrated or mean); a row per task that someone
        of the group scored.

    Raises:
        UserError: no annotator of `groups` is in the matrix.
    """
    names = sorted({groups[name] for name in matrix.annotators if name in groups})
    parts = []
    for group in names:
        rows = [row for row, name in enumerate(matrix.annotators) if groups.get(name) == group]
        members = ScoreMatrix(
            [matrix.annotators[row] for row in rows],
            matrix.theories,
            matrix.items,
            matrix.offsets,
            np.ascontiguousarray(matrix.scores[rows]),
        )
        if np.isnan(members.scores).all():
            continue
        model = fit_calibrated(members)
        values = model.predict(members)
        table = matrix.task_frame(consensus=values.consensus, sd=values.sd, n_annotators=score_count(members))
        table.insert(2, "group", group)
        table["method"] = "calibrated" if model.trust > 0.0 else "mean"
        parts.append(table[table["n_annotators"] > 0])
    if not parts:
        raise UserError("groups: none of their annotators has a score; expected annotators of the annotations table")
    return pd.concat(parts, ignore_index=True)


def contested(table: pd.DataFrame) -> pd.DataFrame:
    r"""The tasks of two or more groups, those on which the groups differ most surely first.

    Cochran's test of homogeneity: with $w_g = 1 / sd_g^2$ and $\bar c$ the mean of the k groups' consensus weighted by
    it, $Q = \sum_g w_g (c_g - \bar c)^2$ is chi-squared with k - 1 degrees of freedom if the groups differ by no more
    than the annotators inside them make likely. In simulated pools of one population, groups of 2 to 12, p was below
    0.05 in 4 to 6 % of the tasks.

    Args:
        table: from `group_consensus`.

    Returns:
        item_id, theory, highest and lowest (groups), difference (of their consensus, 0..1), p, and q: the expected
        share of false finds among the tasks up to this one (Benjamini and Hochberg 1995).
    """
    several = table[table.groupby(["item_id", "theory"])["group"].transform("size") > 1]
    consensus = several.pivot(index=["item_id", "theory"], columns="group", values="consensus")
    weight = 1.0 / several.pivot(index=["item_id", "theory"], columns="group", values="sd") ** 2
    centre = (weight * consensus).sum(axis=1) / weight.sum(axis=1)
    statistic = (weight * consensus.sub(centre, axis=0) ** 2).sum(axis=1)
    p = chi2.sf(statistic, consensus.notna().sum(axis=1) - 1)
    columns = {
        "highest": consensus.idxmax(axis=1),
        "lowest": consensus.idxmin(axis=1),
        "difference": consensus.max(axis=1) - consensus.min(axis=1),
        "p": p,
        "q": false_discovery_control(p) if len(p) else p,
    }
    return pd.DataFrame(columns).reset_index().sort_values("p", kind="stable", ignore_index=True)
