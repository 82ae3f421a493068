r"""The E-step and the statistics of the M-step, in one pass over the scores.

With log-density coefficients $c_{m,k}$ (ln f_1 - ln f_0 of annotator m is $c_{m,0} + c_{m,1} a + c_{m,2} a^2$) the
posterior log-odds of task i under theory t are

$$\lambda_{t,i} = \operatorname{logit} \pi_t +
\sum_{m\ \text{observed}} (c_{m,0} + c_{m,1} a_{m,i} + c_{m,2} a_{m,i}^2),
\quad \gamma_{t,i} = \frac{1}{1 + e^{-\lambda_{t,i}}},$$

and the M-step needs no more than $\sum\gamma, \sum\gamma a, \sum\gamma a^2$ per annotator and theory. These statistics
of disjoint sets of tasks add up, so the tasks may be spread over shards: `Shard` is what one process holds, be it the
only one or one of many actors.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray

from consilience.consensus import baselines
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.truncated_normal import log_density_coefficients
from consilience.errors import UserError

Floats = NDArray[np.float64]

_BLOCK = 1024  # tasks worked on at a time: with ten annotators a block of scores stays in the L2 cache
_NO_GAMMA = np.empty(0)


@dataclass(frozen=True)
class Parameters:
    """What the model believes; a few kilobytes.

    Attributes:
        mu, sigma: (2, G, M), class 0 (unacceptable) first; G = 1 where theories share them, else T.
        prior: (T,) probability that a task of the theory is acceptable.
    """

    mu: Floats
    sigma: Floats
    prior: Floats

    def log_ratio_coefficients(self) -> Floats:
        """(T, M, 3): ln f_1(a) - ln f_0(a) = c0 + c1 a + c2 a^2."""
        density = log_density_coefficients(self.mu, self.sigma)
        return np.broadcast_to(density[1] - density[0], (len(self.prior), *density.shape[2:])).copy()

    def log_odds(self) -> Floats:
        """(T,) logit of the prior."""
        return np.log(self.prior) - np.log1p(-self.prior)


@dataclass(frozen=True)
class Statistics:
    """Sums over tasks, by theory; those of disjoint sets of tasks add up.

    Attributes:
        tasks: (T,) number of tasks.
        gamma: (T,) sum of gamma.
        totals: (T, M, 3) sums of 1, a, a^2 over the observed scores.
        class1: (T, M, 3) the same weighted by gamma; class 0 is the rest.
        log_odds: sum of ln(1 + e^lambda), and of gamma * lambda where gold pins gamma.
        gold_evidence: (T,) sum over gold tasks of (2 label - 1) times the scores' log-odds: below zero where the
            scores speak against the gold.
    """

    tasks: Floats
    gamma: Floats
    totals: Floats
    class1: Floats
    log_odds: float
    gold_evidence: Floats

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            self.tasks + other.tasks,
            self.gamma + other.gamma,
            self.totals + other.totals,
            self.class1 + other.class1,
            self.log_odds + other.log_odds,
            self.gold_evidence + other.gold_evidence,
        )


@dataclass(frozen=True)
class Profile:
    """What is known of the annotators before any fit; those of disjoint sets of tasks add up.

    Attributes:
        annotators, theories: names, M and T of them.
        scores: (M,) number of observed scores.
        binary: (M,) how many of these are exactly 0 or 1.
        lowest, highest: (M,) range of the scores; inf and -inf where there is none.
        gold: number of tasks that gold pins.
    """

    annotators: list[str]
    theories: list[str]
    scores: NDArray[np.int64]
    binary: NDArray[np.int64]
    lowest: Floats
    highest: Floats
    gold: int

    def __add__(self, other: "Profile") -> "Profile":
        return Profile(
            self.annotators,
            self.theories,
            self.scores + other.scores,
            self.binary + other.binary,
            np.minimum(self.lowest, other.lowest),
            np.maximum(self.highest, other.highest),
            self.gold + other.gold,
        )


class Shard:
    """Some tasks of a score matrix, and the passes that EM makes over them.

    All shards of one table are built with the same annotators and theories (see `ScoreMatrix.from_frame`); each task
    lies in one shard. Every method can be repeated: nothing is remembered between passes.

    Attributes:
        matrix: the scores.
        gold_task, gold_label: rising positions of the tasks whose gamma is known, and what it is.
    """

    def __init__(self, matrix: ScoreMatrix, gold: pd.DataFrame | None = None) -> None:
        """Hold `matrix` and the part of `gold` (item_id, theory, label 0..1) that names its tasks.

        Raises:
            UserError: gold lacks a column, repeats a task, or has a label outside 0..1.
        """
        self.matrix = matrix
        self.gold_task, self.gold_label = _gold_positions(matrix, gold)

    def take(self, tasks: NDArray[np.int64]) -> "Shard":
        """The tasks at positions `tasks` (rising; repeats stand for several tasks alike), with their gold."""
        part = Shard(self.matrix.take(tasks))
        label = np.full(self.matrix.scores.shape[1], np.nan)
        label[self.gold_task] = self.gold_label
        part.gold_task = np.flatnonzero(~np.isnan(label[tasks]))
        part.gold_label = label[tasks][part.gold_task]
        return part

    def profile(self) -> Profile:
        """Counts and ranges of the scores."""
        scores = self.matrix.scores
        count = np.array([np.count_nonzero(~np.isnan(row)) for row in scores], dtype=np.int64)
        binary = np.array([np.count_nonzero((row == 0.0) | (row == 1.0)) for row in scores], dtype=np.int64)
        lowest = np.fmin.reduce(scores, axis=1, initial=np.inf)
        highest = np.fmax.reduce(scores, axis=1, initial=-np.inf)
        return Profile(
            self.matrix.annotators, self.matrix.theories, count, binary, lowest, highest, len(self.gold_task)
        )

    def step(self, parameters: Parameters | None) -> Statistics:
        """Statistics under `parameters`, or, with None, under EM's start: gamma = the mean of a task's scores."""
        if parameters is None:
            gamma = np.nan_to_num(baselines.mean(self.matrix), nan=0.5)
            gamma[self.gold_task] = self.gold_label
            class1, gamma_sum = self._weighted(gamma)
            return self._statistics(class1, gamma_sum, 0.0, np.zeros_like(gamma_sum))
        return self._pass(parameters, _NO_GAMMA)

    def posterior(self, parameters: Parameters) -> Floats:
        """(N,) gamma = P(acceptable); the label where gold pins it, NaN where a task has neither score nor gold."""
        gamma = np.empty(self.matrix.scores.shape[1])
        self._pass(parameters, gamma)
        gamma[baselines.score_count(self.matrix) == 0] = np.nan
        gamma[self.gold_task] = self.gold_label
        return gamma

    def _pass(self, parameters: Parameters, gamma: Floats) -> Statistics:
        T, M, _ = self._totals.shape
        class1, gamma_sum, gold_evidence = np.zeros((T, M, 3)), np.zeros(T), np.zeros(T)
        log_odds = _posterior_pass(
            self.matrix.scores,
            self.matrix.offsets,
            parameters.log_ratio_coefficients(),
            parameters.log_odds(),
            self.gold_task,
            self.gold_label,
            gamma,
            class1,
            gamma_sum,
            gold_evidence,
        )
        return self._statistics(class1, gamma_sum, log_odds, gold_evidence)

    def _statistics(self, class1: Floats, gamma_sum: Floats, log_odds: float, gold_evidence: Floats) -> Statistics:
        tasks = np.diff(self.matrix.offsets).astype(np.float64)
        return Statistics(tasks, gamma_sum, self._totals, class1, log_odds, gold_evidence)

    @cached_property
    def _totals(self) -> Floats:
        return self._weighted(np.ones(self.matrix.scores.shape[1]))[0]

    def _weighted(self, gamma: Floats) -> tuple[Floats, Floats]:
        T, M = len(self.matrix.theories), len(self.matrix.annotators)
        class1, gamma_sum = np.zeros((T, M, 3)), np.zeros(T)
        _moments_pass(self.matrix.scores, self.matrix.offsets, gamma, class1, gamma_sum)
        return class1, gamma_sum


def _gold_positions(matrix: ScoreMatrix, gold: pd.DataFrame | None) -> tuple[NDArray[np.int64], Floats]:
    """Rising positions of the tasks that gold names, and their labels."""
    if gold is None:
        return np.empty(0, dtype=np.int64), np.empty(0)
    for name in ("item_id", "theory", "label"):
        if name not in gold.columns:
            raise UserError(f"gold: missing column '{name}'; expected columns item_id, theory, label")
    label = pd.to_numeric(gold["label"], errors="coerce").to_numpy(dtype=np.float64)
    bad = ~((label >= 0.0) & (label <= 1.0))
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(f"gold: row {row + 1}: expected a label from 0 to 1, found {gold['label'].iloc[row]}")
    repeated = gold.duplicated(["item_id", "theory"]).to_numpy()
    if repeated.any():
        row = int(np.argmax(repeated))
        raise UserError(
            f"gold: row {row + 1} repeats item_id {gold['item_id'].iloc[row]}, "
            f"theory {gold['theory'].iloc[row]}; expected one label per item and theory"
        )
    tasks, labels = [], []
    for theory, columns in matrix.theory_slices.items():
        of_theory = (gold["theory"] == theory).to_numpy()
        found = pd.Index(matrix.items[columns]).get_indexer(gold["item_id"].to_numpy(dtype=object)[of_theory])
        tasks.append(found[found >= 0] + columns.start)
        labels.append(label[of_theory][found >= 0])
    task, value = np.concatenate(tasks), np.concatenate(labels)
    order = np.argsort(task)
    return task[order].astype(np.int64), value[order]


# fastmath without nnan and ninf: NaN is how a missing score is told.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


@njit(cache=True, fastmath=_FASTMATH)
def _add_moments(scores: Floats, gamma: Floats, out: Floats) -> None:
    """Add the sums of gamma, gamma a, gamma a^2 over one annotator's block of scores to `out` (3,)."""
    s0, s1, s2 = 0.0, 0.0, 0.0
    for i in range(len(scores)):
        a = scores[i]
        observed = a == a
        weight = gamma[i] if observed else 0.0
        first = weight * (a if observed else 0.0)
        s0 += weight
        s1 += first
        s2 += first * (a if observed else 0.0)
    out[0] += s0
    out[1] += s1
    out[2] += s2


@njit(cache=True, fastmath=_FASTMATH)
def _moments_pass(scores: Floats, offsets: NDArray[np.int64], gamma: Floats, class1: Floats, gamma_sum: Floats) -> None:
    """Fill `class1` (T, M, 3) and `gamma_sum` (T,) for a given gamma (N,)."""
    for t in range(len(offsets) - 1):
        columns = slice(offsets[t], offsets[t + 1])
        gamma_sum[t] += gamma[columns].sum()
        for m in range(len(scores)):
            _add_moments(scores[m, columns], gamma[columns], class1[t, m])


@njit(cache=True, fastmath=_FASTMATH)
def _posterior_pass(
    scores: Floats,
    offsets: NDArray[np.int64],
    coefficients: Floats,
    prior_log_odds: Floats,
    gold_task: NDArray[np.int64],
    gold_label: Floats,
    gamma_out: Floats,
    class1: Floats,
    gamma_sum: Floats,
    gold_evidence: Floats,
) -> float:
    """One pass over the memory of `scores` (M, N); fills the four outputs (`gamma_out` only if it has N places).

    The tasks are taken in blocks: log-odds, gamma and moments of a block are computed while its scores are in cache.
    The sum of ln(1 + e^-|lambda|) is the logarithm of a product of factors between 1 and 2, so it takes one
    logarithm per 512 tasks.
    """
    lam, gamma, tail = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    log_odds = 0.0
    gold = 0
    for t in range(len(offsets) - 1):
        for start in range(offsets[t], offsets[t + 1], _BLOCK):
            end = min(start + _BLOCK, offsets[t + 1])
            n = end - start
            lam[:n] = prior_log_odds[t]
            for m in range(len(scores)):
                block = scores[m, start:end]
                c0, c1, c2 = coefficients[t, m]
                for i in range(n):
                    a = block[i]
                    lam[i] += c0 + a * (c1 + a * c2) if a == a else 0.0
            for i in range(n):
                tail[i] = np.exp(-abs(lam[i]))
            for i in range(n):
                gamma[i] = (1.0 if lam[i] > 0.0 else tail[i]) / (1.0 + tail[i])
                log_odds += max(lam[i], 0.0)
            for first in range(0, n, 512):
                product = 1.0
                for i in range(first, min(first + 512, n)):
                    product *= 1.0 + tail[i]
                log_odds += np.log(product)
            while gold < len(gold_task) and gold_task[gold] < end:
                i, label = gold_task[gold] - start, gold_label[gold]
                log_odds += label * lam[i] - max(lam[i], 0.0) - np.log1p(tail[i])
                gold_evidence[t] += (2.0 * label - 1.0) * (lam[i] - prior_log_odds[t])
                gamma[i] = label
                gold += 1
            gamma_sum[t] += gamma[:n].sum()
            for m in range(len(scores)):
                _add_moments(scores[m, start:end], gamma[:n], class1[t, m])
            if len(gamma_out) > 0:
                gamma_out[start:end] = gamma[:n]
    return log_odds
