"""Before training: whether a consensus is strong enough to pull a model towards.

Optimisation that does not help is the sign of a weak consensus (arXiv 2506.14625); where the boundary lies is left open
there. These are figures that can be had without knowing the truth; docs/realign.md shows by simulation where pulling a
model towards such a consensus stops to help, and that errors which all annotators share cannot be seen.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consilience.consensus.agreement import krippendorff_alpha
from consilience.consensus.bootstrap import bootstrap
from consilience.consensus.calibrated import fit_calibrated
from consilience.consensus.posterior import Shard
from consilience.realign.settings import GateConfig
from consilience.realign.target import Target

_DECIDED = 0.25


@dataclass(frozen=True, slots=True)
class GateReport:
    """How strong a target is under one theory.

    Attributes:
        items: items that have a target.
        decided: share of them whose target is more than 0.25 away from 0.5.
        interval: mean width of the 95 % interval of the calibrated consensus.
        stability: share of labels that stay as they are when the EM is fitted to resampled items, mean over resamples.
        votes: effective number of independent annotators with a signal (`CalibratedModel.genuine_votes`).
        alpha: Krippendorff's alpha of the others; None where it is not defined.
        reasons: why the target is too weak; empty where it is not.
    """

    items: int
    decided: float
    interval: float
    stability: float
    votes: float
    alpha: float | None
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.reasons


def assess(target: Target, theory: str, config: GateConfig, seed: int = 0) -> GateReport:
    """Measure `target` under `theory` against the limits of `config`."""
    columns = target.matrix.theory_slices[theory]
    matrix = target.matrix.take(np.arange(columns.start, columns.stop))
    gamma = target.gamma[columns]
    calibrated = fit_calibrated(target.matrix)
    values = calibrated.predict(matrix)
    alpha = krippendorff_alpha(matrix)
    known = ~np.isnan(gamma)
    decided = float(np.mean(np.abs(gamma[known] - 0.5) > _DECIDED)) if known.any() else 0.0
    interval = float(np.nanmean(values.ci_high - values.ci_low))
    stability = _stability(target, np.flatnonzero(known) + columns.start, config.draws, seed)
    votes = calibrated.genuine_votes
    reasons = []
    if decided < config.min_decided:
        reasons.append(f"{decided:.0%} of the items are decided; {config.min_decided:.0%} are needed")
    if interval > config.max_interval:
        reasons.append(f"the mean interval is {interval:.2f} wide; at most {config.max_interval:.2f} will do")
    if stability < config.min_stability:
        reasons.append(f"resampling keeps {stability:.0%} of the labels; {config.min_stability:.0%} are needed")
    if votes < config.min_votes:
        reasons.append(f"{votes:.1f} independent annotators share a signal; {config.min_votes:.1f} are needed")
    return GateReport(
        items=int(np.count_nonzero(known)),
        decided=decided,
        interval=interval,
        stability=stability,
        votes=votes,
        alpha=None if np.isnan(alpha) else alpha,
        reasons=tuple(reasons),
    )


def _stability(target: Target, tasks: NDArray[np.int64], draws: int, seed: int) -> float:
    """Two annotators leave nothing to resample: their mean stays."""
    if target.model is None or not len(tasks):
        return 1.0
    shard = Shard(target.matrix, target.gold)
    labels = target.gamma[tasks] > 0.5
    resampled = bootstrap(target.model, shard, draws, seed).draws
    return float(np.mean([(shard.posterior(parameters)[tasks] > 0.5) == labels for parameters in resampled]))
