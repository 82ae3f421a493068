"""What a consensus run writes about its pool: agreement, near-copies, groups, influence, closeness to people."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from consilience.consensus import baselines
from consilience.consensus.agreement import effective_annotators, error_correlation, krippendorff_alpha
from consilience.consensus.bootstrap import alpha_interval
from consilience.consensus.calibrated import CalibratedModel
from consilience.consensus.families import families, residual_correlation
from consilience.consensus.groups import CONTESTED_Q, contested, group_consensus
from consilience.consensus.influence import MIN_ANNOTATORS, influence
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.misalignment import tau_sweep
from consilience.consensus.people import against_people, calibration_curve
from consilience.runs import Run
from consilience.table_schema import read_table, write_table
from consilience.tables import AGREEMENT, ANNOTATORS, CALIBRATION, CONTESTED, FAMILIES, GROUPS, INFLUENCE, TAU_SWEEP
from jobs.cli import Summary, rounded
from jobs.run_tables import write_frame

Floats = npt.NDArray[np.float64]

TAUS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Thresholds under which F1 is tabled, to show how far it hangs on the one that was chosen."""

OCCASIONAL = (INFLUENCE, GROUPS, CONTESTED, CALIBRATION)
"""Tables that not every pool, and not every config, has."""


def write_pool_tables(
    matrix: ScoreMatrix,
    gamma: Floats,
    fit: Callable[[ScoreMatrix], Floats],
    groups: Mapping[str, str] | None,
    run: Run,
) -> tuple[Summary, list[str]]:
    """Write agreement, families, F1 by threshold, influence and, where there are two groups, groups and contested.

    Args:
        matrix: the scores, or a sample of their tasks.
        gamma: (N,) the consensus of its tasks.
        fit: fits another matrix and returns its consensus.
        groups: annotator -> group; None: the groups named in the run's `annotators.parquet`, else the families found.
        run: where the tables go.

    Returns:
        Headline figures, and notes for people.
    """
    errors, (residuals, _) = error_correlation(matrix, gamma), residual_correlation(matrix)
    write_frame(_pairs(matrix.annotators, errors, residuals), run, AGREEMENT)
    kin = families(matrix)
    write_frame(kin, run, FAMILIES)
    write_frame(tau_sweep(matrix, gamma, TAUS), run, TAU_SWEEP)
    if len(matrix.annotators) >= MIN_ANNOTATORS:
        write_table(influence(matrix, fit), run / "influence.parquet", INFLUENCE)
    low, high = alpha_interval(matrix)
    summary: Summary = {
        "effective_annotators": rounded(effective_annotators(errors)),
        "krippendorff_alpha": rounded(krippendorff_alpha(matrix)),
        "krippendorff_alpha_low": rounded(low),
        "krippendorff_alpha_high": rounded(high),
        "families": int(kin["family"].nunique()),
    }
    notes = [
        f"near-copies: {', '.join(members)} share over half of what each has of its own"
        for _, members in kin.dropna(subset=["family"]).groupby("family", sort=False)["annotator"]
    ]
    named = groups or _named_groups(run, matrix) or dict(kin.dropna()[["annotator", "family"]].to_numpy())
    if len(set(named.values())) > 1:
        table = group_consensus(matrix, named)
        differences = contested(table)
        write_frame(table, run, GROUPS)
        write_frame(differences, run, CONTESTED)
        summary |= {"groups": table["group"].nunique(), "contested": int((differences["q"] < CONTESTED_Q).sum())}
    return summary, notes


def write_people_tables(
    matrix: ScoreMatrix, gamma: Floats, calibrated: CalibratedModel, people: pa.Table, run: Run
) -> Summary:
    """Write the calibration curves of mean, EM and calibrated; returns r, mae and ce of every method.

    Args:
        matrix, gamma, calibrated: the scores (or a sample of their tasks) and their consensus.
        people: item_id, theory, label: people's shares.
        run: where the table goes.
    """
    labels = people.to_pandas().set_index(["item_id", "theory"])["label"]
    share = labels.reindex(pd.MultiIndex.from_frame(matrix.task_frame())).to_numpy(dtype=np.float64)
    methods = {
        "mean": baselines.mean(matrix),
        "median": baselines.median(matrix),
        "majority": baselines.majority(matrix),
        "weighted_mean": baselines.weighted_mean(matrix),
        "best_single": baselines.best_single(matrix),
        "dawid_skene": baselines.dawid_skene(matrix),
        "em": gamma,
        "calibrated": calibrated.predict(matrix).consensus,
    }
    curves = [calibration_curve(methods[name], share).assign(method=name) for name in ("mean", "em", "calibrated")]
    if any(len(curve) for curve in curves):
        write_frame(pd.concat(curves), run, CALIBRATION)
    return {
        f"{measure}_{name}": rounded(value)
        for name, values in methods.items()
        for measure, value in against_people(values, share).items()
    }


def _pairs(annotators: list[str], errors: Floats, residuals: Floats) -> pd.DataFrame:
    names = np.asarray(annotators, dtype=object)
    return pd.DataFrame(
        {
            "annotator": np.repeat(names, len(names)),
            "other": np.tile(names, len(names)),
            "error_correlation": errors.ravel(),
            "residual_correlation": residuals.ravel(),
        }
    )


def _named_groups(run: Run, matrix: ScoreMatrix) -> dict[str, str]:
    path = run / "annotators.parquet"
    if not path.is_file():
        return {}
    rows = read_table(path, ANNOTATORS).to_pylist()
    return {
        row["annotator"]: row["group"] for row in rows if row.get("group") and row["annotator"] in matrix.annotators
    }
