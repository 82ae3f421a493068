"""How sure the fitted figures are: the bootstrap over items, all theories of an item together."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consilience.consensus.agreement import alpha_of, alpha_terms
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.model import ConsensusModel
from consilience.consensus.posterior import Parameters, Shard
from consilience.consensus.truncated_normal import jeffreys_divergence

Floats = NDArray[np.float64]

DRAWS = 200
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Parameters fitted to resampled items, oriented as `model`.

    Attributes:
        model: the fit to the items themselves.
        draws: one set of parameters per resample.
    """

    model: ConsensusModel
    draws: list[Parameters]

    def reliability(self, level: float = LEVEL, share: float = 1.0) -> pd.DataFrame:
        """Percentile intervals for the rows of `ConsensusModel.reliability`, in their order.

        Where the draws come from a share of the items that `model` was fitted on, the distance of every bound from the
        fit is multiplied by its root: an interval shrinks as 1 / sqrt(n).

        Informativeness cannot be negative, so resamples of an annotator who says nothing lie above 0 all of them, and
        further from it than the fit: `ci_low` is the lower one of the percentile and the basic bootstrap bound.

        Returns:
            annotator, theory, ci_low, ci_high (of informativeness), mu1_low, mu1_high, mu0_low, mu0_high; missing
            where the annotator has no score.
        """
        table = self.model.reliability()
        informativeness = [jeffreys_divergence(at.mu[1], at.sigma[1], at.mu[0], at.sigma[0]) for at in self.draws]
        bounds = {
            "ci": np.stack(informativeness),
            "mu1": np.stack([at.mu[1] for at in self.draws]),
            "mu0": np.stack([at.mu[0] for at in self.draws]),
        }
        unknown = table["n"].to_numpy() == 0
        intervals = table[["annotator", "theory"]].copy()
        for name, values in bounds.items():
            for side, bound in zip(("low", "high"), _interval(values, level), strict=True):
                fitted = table["informativeness" if name == "ci" else name].to_numpy()
                intervals[f"{name}_{side}"] = fitted + np.sqrt(share) * (bound.ravel() - fitted)
        intervals.loc[unknown, intervals.columns[2:]] = np.nan
        basic_low = np.maximum(2.0 * table["informativeness"] - intervals["ci_high"], 0.0)
        return intervals.assign(ci_low=np.minimum(intervals["ci_low"], basic_low))

    def consensus(self, matrix: ScoreMatrix, level: float = LEVEL) -> tuple[Floats, Floats]:
        """(N,) bounds of gamma for the tasks of `matrix`: what the posterior would be had other items been fitted.

        It says how far gamma depends on the sample of items; not how far the label is known, which is gamma itself.
        """
        shard = Shard(matrix.align(self.model.annotators))
        return _interval(np.stack([shard.posterior(parameters) for parameters in self.draws]), level)


def bootstrap(model: ConsensusModel, shard: Shard, draws: int = DRAWS, seed: int = 0) -> Bootstrap:
    """Fit `draws` resamples of the items, each by EM from the parameters of `model`.

    Starting from the full fit keeps every draw in its basin: what varies is the sample of items, not which of several
    local maxima is found.

    Args:
        model: the fit to all tasks of `shard`.
        shard: the tasks, with gold where there is any.
    """
    fits = (
        TruncatedNormalEM.resume(model, shard.take(tasks).step).parameters
        for tasks in _resamples(shard.matrix, draws, seed)
    )
    return Bootstrap(model, list(fits))


def alpha_interval(matrix: ScoreMatrix, draws: int = 1000, level: float = LEVEL, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of Krippendorff's alpha; NaN where alpha itself is."""
    item, names = pd.factorize(matrix.items)
    of_item = np.stack([np.bincount(item, terms, len(names)) for terms in alpha_terms(matrix)])
    values = alpha_of(np.stack([of_item @ times for times in _times_drawn(len(names), draws, seed)], axis=1))
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [0.5 * (1.0 - level), 0.5 * (1.0 + level)])
    return float(low), float(high)


def _resamples(matrix: ScoreMatrix, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Rising task positions, each item's tasks as often as the item is drawn."""
    item, names = pd.factorize(matrix.items)
    for times in _times_drawn(len(names), draws, seed):
        yield np.repeat(np.arange(len(item)), times[item])


def _times_drawn(items: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each item is in each resample."""
    random = np.random.default_rng(seed)
    for _ in range(draws):
        yield random.multinomial(items, np.full(items, 1.0 / items))


def _interval(values: Floats, level: float) -> tuple[Floats, Floats]:
    """Percentile interval over the first axis."""
    low, high = np.quantile(values, [0.5 * (1.0 - level), 0.5 * (1.0 + level)], axis=0)
    return low, high
