"""Consensus by expectation-maximisation: the four-parameter truncated-normal model of arXiv 2506.14625."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consilience.consensus import baselines
from consilience.consensus.matrix import ScoreMatrix, as_matrix
from consilience.consensus.model import ConsensusModel, Settings, consensus_table
from consilience.consensus.posterior import Parameters, Profile, Shard, Statistics
from consilience.consensus.truncated_normal import (
    SIGMA_MAX,
    SIGMA_MIN,
    fit_box,
    fit_naive,
    log_density_coefficients,
    mean_sd,
)
from consilience.errors import UserError
from consilience.table_schema import column_names
from consilience.tables import RELIABILITY

Floats = NDArray[np.float64]
Step = Callable[[Parameters | None], Statistics]

BINARY_SHARE = 0.9
_LEAST_VARIANCE = 1e-3  # of the pseudo-observations, so that a constant annotator keeps some
_ROUNDING = 1e-9  # evidence nearer to zero than this has no sign
_SLACK = 1e-3  # of means of a and a^2, rounding in sums over any number of scores included


@dataclass
class TruncatedNormalEM:
    r"""Weighs annotators by how well their scores tell acceptable from unacceptable.

    A task i under theory j has a latent label $\phi_{j,i} \in \{0, 1\}$ with prior $\pi_j = P(\phi_{j,i} = 1)$.
    Given the label c, annotator m's score is normal, truncated to [0, 1], with parameters of its own:
    $a_{m,j,i} \mid \phi_{j,i} = c \sim TN(\mu_c(m), \sigma_c(m))$. Annotators are independent given the label.

    - E-step: $\gamma_{j,i} = P(\phi_{j,i} = 1 \mid a)$, the consensus; missing scores drop out of the product.
    - M-step: $\mu_c(m), \sigma_c(m)$ by weighted maximum likelihood in a safe box, from
      $\sum w, \sum w a, \sum w a^2$ with $w = \gamma$ or $1 - \gamma$; $\pi$ = mean of gamma.

    The paper leaves M-step, prior, start and stop open; these are this project's choices. Start: gamma = the mean of
    the task's scores. Smoothing: each class of each annotator gains kappa pseudo-observations with the annotator's own
    mean and variance, and each estimated prior gains kappa tasks, half of them acceptable; so what is maximised is the
    log-likelihood plus their log-density. Orientation: once converged, the classes are exchanged for all annotators
    together if their summed $(E_1[a_m] - E_0[a_m]) / Var_m$ is negative, so that most of the evidence says class 1 =
    acceptable; gold decides instead where there is any. A single inverted annotator stays inverted, and is
    informative. If the exchange is no symmetry of the model (gold, a fixed prior, theories fitted apart), the iteration
    goes on from there. Among several local maxima the highest can be the wrong one (a pool with a 0/1 annotator), so
    there are no restarts.

    The consensus saturates at 0 and 1 where annotators are correlated, as language models are: read it as a label
    rather than as a probability there.
    """

    prior: Literal["global", "per_theory"] | float = "global"
    """One prior estimated over all tasks, one per theory, or a fixed probability between 0 and 1."""

    parameters: Literal["pooled", "per_theory"] = "pooled"
    """Annotators' parameters shared by all theories (as published), or fitted under each theory alone."""

    mstep: Literal["exact", "naive"] = "exact"
    """"exact": maximum likelihood in the box. "naive": weighted mean and standard deviation taken for mu and sigma;
    then the objective may decrease."""

    kappa: float = 2.0
    """Smoothing: the number of pseudo-observations; above 0."""

    tolerance: float = 1e-7
    """Stop when the objective changes by less than this per task."""

    max_iterations: int = 300
    """Stop after this many passes over the data."""

    noise_sd: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation of an annotator's repeated scores, by name (see `consilience.consensus.noise`): a floor of
    its sigma in both classes. Scores hold their noise already, so that sigma does too and nothing is added to it."""

    model_: ConsensusModel | None = field(init=False, repr=False)
    """The fitted consensus; None where there are two annotators only."""

    gamma_: Floats = field(init=False, repr=False)
    """(N,) consensus of each task of the matrix; the label where gold pins it, NaN where a task has no score."""

    consensus_: pd.DataFrame = field(init=False, repr=False)
    """The same with item_id, theory, n_annotators, disagreement."""

    parameters_: pd.DataFrame = field(init=False, repr=False)
    """The `reliability` table; no rows where there are two annotators only."""

    trace_: list[float] = field(init=False, repr=False)
    """The objective after each iteration; never decreases with the exact M-step. Where the classes were exchanged by
    no symmetry, from that point on."""

    iterations_: int = field(init=False, repr=False)
    """Passes over the data."""

    stopped_: str = field(init=False, repr=False)
    """"converged", "max_iterations" or "two_annotators"."""

    notes_: list[str] = field(init=False, repr=False)
    """What is odd about the annotators, one line each."""

    def __post_init__(self) -> None:
        if not (self.prior in ("global", "per_theory") or (isinstance(self.prior, float) and 0.0 < self.prior < 1.0)):
            raise UserError(f"prior: expected global, per_theory or a number between 0 and 1, found {self.prior!r}")
        if self.parameters not in ("pooled", "per_theory"):
            raise UserError(f"parameters: expected pooled or per_theory, found {self.parameters!r}")
        if self.mstep not in ("exact", "naive"):
            raise UserError(f"mstep: expected exact or naive, found {self.mstep!r}")
        for name in ("kappa", "tolerance", "max_iterations"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}: expected a number above 0, found {getattr(self, name)!r}")
        for name, sd in self.noise_sd.items():
            if not 0.0 <= sd <= 1.0:
                raise UserError(f"noise_sd: annotator '{name}': expected a number from 0 to 1, found {sd!r}")
        self._sigma_min: Floats = np.array(SIGMA_MIN)

    def fit(self, data: ScoreMatrix | pd.DataFrame, gold: pd.DataFrame | None = None) -> "TruncatedNormalEM":
        """Fit to a matrix or to a long table (item_id, theory, annotator, score).

        Args:
            data: scores 0..1, 1 = acceptable; missing ones NaN or absent.
            gold: item_id, theory, label (0..1): tasks whose gamma is known.

        Raises:
            UserError: bad data or gold (see `ScoreMatrix.from_frame`, `Shard`), fewer than two annotators, or none
                who varies.
        """
        matrix = as_matrix(data)
        shard = Shard(matrix, gold)
        self.run(shard.step, shard.profile(), 0 if gold is None else len(gold))
        if self.model_ is None:
            self.gamma_ = baselines.mean(matrix)
        else:
            self.gamma_ = shard.posterior(self.model_.parameters)
        self.consensus_ = consensus_table(matrix, self.gamma_)
        return self

    def predict(self, data: ScoreMatrix | pd.DataFrame) -> pd.DataFrame:
        """The consensus on other items; see `ConsensusModel.predict`. With two annotators, their mean."""
        if self.model_ is not None:
            return self.model_.predict(data)
        matrix = as_matrix(data)
        return consensus_table(matrix, baselines.mean(matrix))

    def run(self, step: Step, profile: Profile, gold_rows: int = 0) -> None:
        """Fit to data held elsewhere: everything of `fit` but `gamma_` and `consensus_`.

        Args:
            step: returns the statistics under given parameters (None: under the start), summed over all shards
                (see `Shard.step`).
            profile: of all shards (see `Shard.profile`).
            gold_rows: number of rows of the gold table, to notice those that match no task.

        Raises:
            UserError: as `fit`.
        """
        self.notes_ = _notes(profile)
        _check_gold(profile, gold_rows, self.notes_)
        self.model_, self.trace_, self.iterations_ = None, [], 0
        self._sigma_min = self._floors(profile.annotators)
        if np.count_nonzero(profile.scores) == 2:
            self.stopped_ = "two_annotators"
            self.parameters_ = pd.DataFrame(columns=column_names(RELIABILITY))
            warnings.warn(self.notes_[-1], stacklevel=2)
            return

        fitted, statistics = self._climb(step, self._m_step(step(None)))
        exchange = self._inverted(fitted, statistics)
        if exchange.any():
            fitted, statistics = self._climb(step, self._exchanged(fitted, exchange))
        self.model_ = ConsensusModel(
            annotators=profile.annotators,
            theories=profile.theories,
            settings=Settings(
                prior=self.prior,
                parameters=self.parameters,
                mstep=self.mstep,
                kappa=self.kappa,
                tolerance=self.tolerance,
                max_iterations=self.max_iterations,
                noise_sd=dict(self.noise_sd),
            ),
            parameters=fitted,
            statistics=statistics,
            stopped=self.stopped_,
            iterations=self.iterations_,
        )
        self.parameters_ = self.model_.reliability()

    @classmethod
    def resume(cls, model: ConsensusModel, step: Step) -> ConsensusModel:
        """`model` after more iterations from its own parameters, on the statistics that `step` returns (see `run`).

        Its orientation is kept: should the classes have changed places on the way, they are exchanged back.

        Raises:
            UserError: the statistics become such as no scores can have.
        """
        em = cls(**model.settings.model_dump())
        em.iterations_ = model.iterations
        em._sigma_min = em._floors(model.annotators)
        fitted, statistics = em._climb(step, model.parameters)
        difference = [np.diff(mean_sd(at.mu, at.sigma)[0], axis=0)[0] for at in (model.parameters, fitted)]
        exchange = np.sum(difference[0] * difference[1], axis=-1) < 0.0
        if exchange.any():
            fitted = em._exchanged(fitted, exchange)
            statistics = step(fitted)
        return replace(model, parameters=fitted, statistics=statistics, stopped=em.stopped_, iterations=em.iterations_)

    def _climb(self, step: Step, fitted: Parameters) -> tuple[Parameters, Statistics]:
        """E-step and M-step in turn from `fitted`, until the objective stands still."""
        statistics = step(fitted)
        self.trace_ = [self._objective(fitted, statistics)]
        self.stopped_ = "max_iterations"
        while len(self.trace_) < self.max_iterations:
            fitted = self._m_step(statistics)
            statistics = step(fitted)
            self.trace_.append(self._objective(fitted, statistics))
            if abs(self.trace_[-1] - self.trace_[-2]) < self.tolerance * statistics.tasks.sum():
                self.stopped_ = "converged"
                break
        self.iterations_ += len(self.trace_)
        return fitted, statistics

    def _m_step(self, statistics: Statistics) -> Parameters:
        totals, class1 = self._grouped(statistics.totals), self._grouped(statistics.class1)
        pseudo = self.kappa * _own_moments(statistics.totals, totals)
        sums = np.stack([totals - class1, class1]) + pseudo
        prior = self._prior(statistics)
        _check_possible(sums, prior)
        fit = fit_box if self.mstep == "exact" else fit_naive
        mu, sigma = fit(sums[..., 1] / sums[..., 0], sums[..., 2] / sums[..., 0], self._sigma_min)
        return Parameters(mu, sigma, prior)

    def _prior(self, statistics: Statistics) -> Floats:
        gamma, tasks = statistics.gamma, statistics.tasks
        if self.prior == "per_theory":
            return (gamma + 0.5 * self.kappa) / (tasks + self.kappa)
        if self.prior == "global":
            return np.full(len(tasks), (gamma.sum() + 0.5 * self.kappa) / (tasks.sum() + self.kappa))
        return np.full(len(tasks), self.prior)

    def _objective(self, fitted: Parameters, statistics: Statistics) -> float:
        """Log-likelihood (of gold tasks: expected under their label) plus the pseudo-observations' log-density."""
        density = log_density_coefficients(fitted.mu, fitted.sigma)
        totals = self._grouped(statistics.totals)
        pseudo = self.kappa * _own_moments(statistics.totals, totals)
        objective = statistics.log_odds + np.sum(totals * density[0]) + np.sum(pseudo * density)
        log_odds_against = np.log1p(-fitted.prior)
        objective += np.sum(statistics.tasks * log_odds_against)
        estimated = {"global": 1, "per_theory": len(fitted.prior)}.get(str(self.prior), 0)
        objective += 0.5 * self.kappa * np.sum((np.log(fitted.prior) + log_odds_against)[:estimated])
        return float(objective)

    def _inverted(self, fitted: Parameters, statistics: Statistics) -> NDArray[np.bool_]:
        """(G,) True where class 1 is the unacceptable one: by gold where there is any, else by the annotators."""
        mean, sd = mean_sd(fitted.mu, fitted.sigma)
        evidence = np.sum((mean[1] - mean[0]) / (0.5 * (sd[0] ** 2 + sd[1] ** 2)), axis=-1)
        gold = self._grouped(statistics.gold_evidence)
        return np.where(np.abs(gold) > _ROUNDING, gold, evidence) < -_ROUNDING

    def _exchanged(self, fitted: Parameters, exchange: NDArray[np.bool_]) -> Parameters:
        """The two classes exchanged, for all annotators alike, in the groups of theories where `exchange` holds."""
        mu = np.where(exchange[:, None], fitted.mu[::-1], fitted.mu)
        sigma = np.where(exchange[:, None], fitted.sigma[::-1], fitted.sigma)
        prior = fitted.prior
        if self.prior == "per_theory" or (self.prior == "global" and exchange.all()):
            prior = np.where(exchange, 1.0 - prior, prior)
        return Parameters(mu, sigma, prior)

    def _floors(self, annotators: Sequence[str]) -> Floats:
        """(M,) the least sigma of each annotator."""
        return np.clip([self.noise_sd.get(name, 0.0) for name in annotators], SIGMA_MIN, SIGMA_MAX)

    def _grouped(self, by_theory: Floats) -> Floats:
        """(T, ...) summed to (1, ...) where theories share parameters."""
        return by_theory.sum(axis=0, keepdims=True) if self.parameters == "pooled" else by_theory


def _own_moments(by_theory: Floats, grouped: Floats) -> Floats:
    """(G, M, 3): 1, mean of a, mean of a^2 of each annotator's scores in each group; over all where it has none there.

    An annotator without any score gets those of the uniform law, the same in both classes: it says nothing.
    """
    totals = np.where(grouped[..., :1] > 0.0, grouped, by_theory.sum(axis=0))
    totals = np.where(totals[..., :1] > 0.0, totals, [1.0, 1.0 / 2.0, 1.0 / 3.0])
    mean, square = totals[..., 1] / totals[..., 0], totals[..., 2] / totals[..., 0]
    variance = np.maximum(square - mean**2, _LEAST_VARIANCE)
    return np.stack([np.ones_like(mean), mean, mean**2 + variance], axis=-1)


def _check_possible(sums: Floats, prior: Floats) -> None:
    """Raise UserError for (..., 3) sums of 1, a, a^2 or a prior that no scores can have.

    Sums over scores are always possible; those that an update extrapolates need not be.
    """
    possible = np.all(sums[..., 0] > 0.0) and np.all((prior > 0.0) & (prior < 1.0))
    if possible:
        mean, square = sums[..., 1] / sums[..., 0], sums[..., 2] / sums[..., 0]
        possible = np.all(np.abs(mean - 0.5) < 0.5 + _SLACK) and np.all(square > mean**2 - _SLACK)
    if not possible:
        raise UserError(
            "the new scores take the consensus further from the saved one than an update can follow; "
            "fit it again on all annotations"
        )


def _notes(profile: Profile) -> list[str]:
    """One line per oddity.

    Raises:
        UserError: fewer than two annotators have a score, or all are constant.
    """
    scored = profile.scores > 0
    constant = scored & (profile.lowest == profile.highest)
    if np.count_nonzero(scored) < 2:
        raise UserError(
            f"annotations: {np.count_nonzero(scored)} annotator with scores; expected two or more for a consensus"
        )
    if np.array_equal(constant, scored):
        raise UserError("annotations: every annotator gives one and the same score throughout; nothing can be weighed")
    notes = []
    for m, name in enumerate(profile.annotators):
        if not scored[m]:
            notes.append(f"annotator '{name}' has no score")
        elif constant[m]:
            notes.append(f"annotator '{name}' gives {profile.lowest[m]:g} throughout and says nothing")
        elif profile.binary[m] > BINARY_SHARE * profile.scores[m]:
            share = profile.binary[m] / profile.scores[m]
            notes.append(f"annotator '{name}' gives exactly 0 or 1 in {share:.0%} of its scores; it may be guessing")
    if np.count_nonzero(scored) == 2:
        notes.append("two annotators: the consensus is their mean; at least three are needed to weigh them")
    return notes


def _check_gold(profile: Profile, rows: int, notes: list[str]) -> None:
    if rows > 0 and profile.gold == 0:
        raise UserError(f"gold: none of its {rows} rows names an item and theory of the annotations")
    if profile.gold < rows:
        notes.append(f"gold: {rows - profile.gold} of {rows} rows name no item and theory of the annotations")
