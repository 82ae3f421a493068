"""A consensus on the pool's own scale that needs no labels, resists noise, and says when the pool is too weak.

The model, for annotator m and task i (an item under a theory):

    a_mi = b_m + g_m z_i + e_mi,    e_mi ~ N(0, psi_m),    z_i ~ N(0, 1)

A one-factor model with a location b_m, a gain g_m and a residual variance psi_m per annotator. Each annotator is of one
of three roles, with estimated shares:

    genuine    g_m ~ N(g, tau_g^2),   b_m ~ N(b, tau_b^2)
    noise      g_m = 0
    inverted   1 - a_mi is genuine:  g_m ~ N(-g, tau_g^2),   b_m ~ N(1 - b, tau_b^2)

The consensus is what a further genuine annotator is expected to answer, E[b + g z_i | all scores]. So it does not
saturate as a class posterior does (z is continuous: one mode or two), is not pulled towards annotators who answer at
random, and draws a task with few scores towards the pool's average. Locations, gains and variances are shrunk to their
common values as far as the data show no difference (empirical Bayes): a pool without evidence of unequal reliability is
averaged almost equally.

Annotators whose residuals correlate share their votes, 1 / (1 + (k - 1) r) each for k of pairwise correlation r (the
generalised least squares weight of such a block). Votes set sd, the orientation and whether there are enough witnesses.
They do not weigh the consensus itself: in simulated pools with families that made it worse.

Two things no unlabelled pool can tell, and what is done about them:

- Orientation. (z, genuine, inverted) and (-z, inverted, genuine) fit alike. The majority of effective votes is taken to
  be genuine. With k votes for and l against, P(orientation) = P(Beta(k + 1, l + 1) > 1/2), and the consensus is
  trust * factor + (1 - trust) * mean of the annotators with signal, trust = 2 P - 1: the posterior expectation when
  either orientation of the factor is possible around that mean.
- An error that all share is not an error that can be seen: `sd` is the uncertainty of the pool's consensus, not its
  distance from people's. Likewise copies that outnumber all others are the majority: they become the factor, their
  residuals look independent, and nothing is flagged.

A pool without common signal, with fewer than three independent votes, or too sparse to fit gets its plain mean and says
so in `weak`.

Sources: factor analysis by EM (Rubin and Thayer 1982); a start from the correlations without their diagonal (Zhang, Cai
and Wu 2022).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc
from scipy.stats import t as student

from consilience.consensus.factor import SD_FLOOR, RoleFactor, factor_scores
from consilience.consensus.matrix import ScoreMatrix
from consilience.errors import UserError

Floats = NDArray[np.float64]

MIN_VOTES = 3.0  # a factor with fewer than three independent indicators is not identified
ALMOST = 1e-3  # of a vote: no role is ever quite certain, so that three clear annotators fall just short of three
MIN_TRUST = 0.9  # orientation believed with 95 %
MIN_RELIABILITY = 0.5  # below it a task's consensus holds more noise than signal
LOST_RELIABILITY = 0.1  # below it the fit has shrunk a signal that is there to nothing: too few scores per task


@dataclass(frozen=True, eq=False)
class CalibratedConsensus:
    """Per task, all (N,) and NaN where the task has no score; consensus and interval lie in 0..1."""

    consensus: Floats
    sd: Floats
    ci_low: Floats
    ci_high: Floats


@dataclass(frozen=True, eq=False)
class CalibratedModel:
    """A fitted pool.

    Attributes:
        annotators: M names.
        location, gain, noise_sd: (M,) b_m, g_m and the root of psi_m, in score units; z has mean 0 and variance 1.
        role: (3, M) probabilities of genuine, noise, inverted.
        votes: (M,) the part of a vote each has left beside those whose residuals follow its own, 0..1.
        centre, slope: the genuine annotators' mean location and gain.
        centre_sd, slope_sd: their spread between genuine annotators.
        disagreement_sd: spread of the annotators' scores about a task's mean, pooled over tasks.
        genuine_votes: effective number of independent genuine annotators.
        orientation: probability that the majority is the genuine side, 0.5..1.
        reliability: share of the factor's variance known from the scores, averaged over tasks, 0..1.
        trust: weight of the factor against the mean of those with signal, 0..1.
        weak: why the pool has no dependable consensus; empty where it has one.
    """

    annotators: list[str]
    location: Floats
    gain: Floats
    noise_sd: Floats
    role: Floats
    votes: Floats
    centre: float
    slope: float
    centre_sd: float
    slope_sd: float
    disagreement_sd: float
    genuine_votes: float
    orientation: float
    reliability: float
    trust: float
    weak: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All attributes as lists and numbers."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, raw: dict[str, Any], where: str) -> "CalibratedModel":
        """What `to_json` gave.

        Raises:
            UserError: a key is missing or has another shape; `where` is in the message.
        """
        try:
            M = len(raw["annotators"])
            shapes = {"location": (M,), "gain": (M,), "noise_sd": (M,), "role": (3, M), "votes": (M,)}
            arrays = {name: np.array(raw[name], dtype=np.float64).reshape(shape) for name, shape in shapes.items()}
            return cls(**{**raw, **arrays, "weak": tuple(raw["weak"])})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: key 'calibrated': expected a saved calibrated consensus ({error})") from None

    def predict(self, matrix: ScoreMatrix, level: float = 0.95) -> CalibratedConsensus:
        """The consensus of each task of `matrix` with an interval of `level`; its annotators are aligned by name.

        Raises:
            UserError: an annotator that was not in the fit.
        """
        scores = matrix.align(self.annotators).scores
        seen = (~np.isnan(scores)).astype(np.float64)
        filled = np.nan_to_num(scores)
        evidence = (self.gain / self.noise_sd) ** 2
        z, variance = factor_scores(filled, seen, self.location, self.gain, self.gain**2, self.noise_sd**2)
        variance = variance**2 * (1.0 + (evidence / self.votes) @ seen)
        factor = self.centre + self.slope * z
        factor_variance = self.slope**2 * variance + (self.centre_sd**2 + self.slope_sd**2 * (z**2 + variance)) / max(
            self.genuine_votes, 1.0
        )

        weight = np.maximum(1.0 - self.role[1], 1e-3) if self.trust > 0.0 else np.ones(len(scores))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (weight @ filled) / (weight @ seen)
            mean_variance = np.where(np.isnan(mean), np.nan, self.disagreement_sd**2 / ((weight * self.votes) @ seen))
        consensus = np.clip(self.trust * factor + (1.0 - self.trust) * mean, 0.0, 1.0)
        sd = np.sqrt(
            self.trust * factor_variance
            + (1.0 - self.trust) * mean_variance
            + self.trust * (1.0 - self.trust) * (factor - mean) ** 2
        )
        half = float(student.ppf(0.5 + 0.5 * level, max(self.genuine_votes - 1.0, 1.0))) * sd
        return CalibratedConsensus(
            consensus, sd, np.clip(consensus - half, 0.0, 1.0), np.clip(consensus + half, 0.0, 1.0)
        )


def fit_calibrated(matrix: ScoreMatrix, max_iterations: int = 1000, tolerance: float = 1e-4) -> CalibratedModel:
    """Fit the model of this module by EM; stops when no z_i moves by more than `tolerance` (z has variance 1).

    Deterministic. Annotators without a score count as noise. Parameters are pooled over theories.

    Raises:
        UserError: no score at all.
    """
    scores = matrix.scores
    seen = (~np.isnan(scores)).astype(np.float64)
    filled = np.nan_to_num(scores)
    active = seen.sum(1) > 0
    tasks = seen.sum(0) > 0
    if not active.any():
        raise UserError("calibrated consensus: no scores; expected at least one annotator with a score")
    fit = RoleFactor(filled[np.ix_(active, tasks)], seen[np.ix_(active, tasks)])
    fit.run(max_iterations, tolerance)
    return _judge(fit, matrix.annotators, active)


def _judge(fit: RoleFactor, annotators: list[str], active: NDArray[np.bool_]) -> CalibratedModel:
    """Orient, weigh and judge the fit."""
    role = fit.role
    if role[2] @ fit.votes > role[0] @ fit.votes:
        role = role[::-1]
    support, against = float(role[0] @ fit.votes), float(role[2] @ fit.votes)
    orientation = float(betainc(against + 1.0, support + 1.0, 0.5))
    reliability = float(1.0 - fit.variance.mean())
    found = reliability >= LOST_RELIABILITY
    votes = support + against
    identified = fit.signal and found and votes >= MIN_VOTES - ALMOST
    trust = 2.0 * orientation - 1.0 if identified else 0.0
    weak = []
    if not fit.signal:
        weak.append("the annotators' scores hold no common signal beyond chance")
    elif not found:
        weak.append("too few scores per task to find what the annotators have in common")
    elif not identified:
        shown = np.floor(10.0 * votes) / 10.0
        weak.append(f"{shown:.1f} independent annotators share a signal; {MIN_VOTES:.0f} are needed")
    elif trust < MIN_TRUST:
        weak.append(f"unsure which way is up: {support:.1f} effective votes against {against:.1f}")
    if reliability < MIN_RELIABILITY:
        weak.append(f"the scores fix only {reliability:.0%} of the variance of the tasks")

    def full(values: Floats, absent: float) -> Floats:
        out = np.full(len(annotators), absent)
        out[active] = values
        return out

    weight = np.maximum(role[0], 1e-9)
    return CalibratedModel(
        annotators=list(annotators),
        location=full(fit.location, 0.5),
        gain=full(fit.gain, 0.0),
        noise_sd=full(np.sqrt(fit.psi), 1.0),
        role=np.stack([full(role[0], 0.0), full(role[1], 1.0), full(role[2], 0.0)]),
        votes=full(fit.votes, 1.0),
        centre=float(np.average(fit.location, weights=weight)),
        slope=float(np.average(fit.gain, weights=weight)),
        centre_sd=float(np.sqrt(fit.centre_spread)),
        slope_sd=float(np.sqrt(fit.slope_spread)),
        disagreement_sd=_disagreement_sd(fit),
        genuine_votes=support,
        orientation=orientation,
        reliability=reliability,
        trust=trust,
        weak=tuple(weak),
    )


def _disagreement_sd(fit: RoleFactor) -> float:
    """Pooled within-task standard deviation; 0.5, the largest there is, where no task has two scores."""
    scored = fit.seen.sum(0)
    freedom = float(np.sum(scored - 1.0))
    square = float(np.sum(fit.total_square) - np.sum(fit.filled.sum(0) ** 2 / scored))
    return max(float(np.sqrt(max(square, 0.0) / freedom)), SD_FLOOR) if freedom > 0.0 else 0.5
