"""How often the 95 % intervals hold what they claim to, where their models hold and where they do not.

    python -m tests.benchmarks.interval_coverage

Prints two Markdown tables, in under two minutes on one core.

1. `ci_low..ci_high` of the calibrated consensus, per task: how often it covers the *further* value, the mean answer of
   unlimited further honest annotators of the same kind, and the *truth* that the scores were made from. Beside it the
   EM: of the tasks it calls with over 95 % (gamma above 0.95 or below 0.05), the share it calls right (truth > 0.5).
2. The bootstrap of the EM over items, per annotator: informativeness, mu1 and mu0 against what the annotator's fit is
   with 20,000 tasks (where the model holds, the truth); gamma against gamma under those parameters, for tasks where
   it is between 0.01 and 0.99; Krippendorff's alpha against that of the 20,000 tasks.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from consilience.consensus.agreement import krippendorff_alpha
from consilience.consensus.bootstrap import alpha_interval, bootstrap
from consilience.consensus.calibrated import fit_calibrated
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.posterior import Shard
from consilience.consensus.truncated_normal import jeffreys_divergence

Floats = NDArray[np.float64]

POOLS = 20
TASKS = 200
FURTHER = 500
LIMIT = 20_000
DRAWS = 100


class Simulation:
    """Annotators drawn once, who then judge any number of tasks.

    Truth is a degree, 0..1; scores are truth scaled about 0.5 by a gain, plus a bias and an error (`errors` makes them,
    standardised). With `binary`, truth is a label and scores are truncated normals given it: the EM's model.
    """

    def __init__(
        self,
        seed: int,
        annotators: int,
        binary: bool = False,
        errors: Callable[[np.random.Generator, int, int], Floats] | None = None,
        shared_bias: float = 0.0,
        missing: float = 0.0,
        guessing: float = 0.0,
        step: float = 0.0,
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.annotators = annotators
        self.binary, self.shared_bias, self.missing, self.step = binary, shared_bias, missing, step
        self.errors = errors or (lambda random, M, N: random.normal(size=(M, N)))
        self.guessers = round(guessing * annotators)
        self.kind = self._draw(annotators + FURTHER)

    def _draw(self, annotators: int) -> Floats:
        """(annotators, 4) mu1, sigma1, mu0, sigma0, or gain, bias, noise."""
        if self.binary:
            low, high = [0.50, 0.12, 0.27, 0.12], [0.68, 0.20, 0.42, 0.20]
        else:
            low, high = [0.7, -0.1, 0.08, 0.0], [1.1, 0.1, 0.20, 0.0]
        return self.random.uniform(low, high, (annotators, 4))

    def tasks(self, count: int) -> tuple[Floats, Floats, Floats]:
        """(M, count) scores, (count,) truth, (count,) further value."""
        if self.binary:
            truth = (self.random.random(count) < 0.45).astype(np.float64)
        else:
            truth = np.clip(self.random.normal(0.5, 0.18, count), 0.0, 1.0)
        seen = truth + self.shared_bias * self.random.normal(size=count)
        pool = self._scores(self.kind[: self.annotators], seen, self.errors(self.random, self.annotators, count))
        pool[: self.guessers] = self.random.random((self.guessers, count))
        pool[self.random.random(pool.shape) < self.missing] = np.nan
        if count == LIMIT:
            return pool, truth, np.full(count, np.nan)
        others = self.random.normal(size=(FURTHER, count))
        return pool, truth, self._scores(self.kind[self.annotators :], seen, others).mean(axis=0)

    def _scores(self, kind: Floats, seen: Floats, error: Floats) -> Floats:
        if self.binary:
            mu1, sigma1, mu0, sigma0 = kind.T[:, :, None]
            mu, sigma = np.where(seen > 0.5, mu1, mu0), np.where(seen > 0.5, sigma1, sigma0)
            uniform = self.random.random(mu.shape)
            low, high = ndtr(-mu / sigma), ndtr((1.0 - mu) / sigma)
            scores = np.clip(mu + sigma * ndtri(low + uniform * (high - low)), 0.0, 1.0)
        else:
            gain, bias, noise, _ = kind.T[:, :, None]
            scores = np.clip(0.5 + bias + gain * (seen - 0.5) + noise * error, 0.0, 1.0)
        return np.round(scores / self.step) * self.step if self.step else scores


def related(random: np.random.Generator, annotators: int, tasks: int) -> Floats:
    """A third of the annotators share 60 % of their error variance."""
    family = np.where(np.arange(annotators) < annotators / 3, 0.6, 0.0)[:, None]
    own = random.normal(size=(annotators, tasks))
    return np.sqrt(1.0 - family) * own + np.sqrt(family) * random.normal(size=tasks)


def heavy(random: np.random.Generator, annotators: int, tasks: int) -> Floats:
    """Student's t with 2.5 degrees of freedom, at the normal's interquartile range."""
    return 0.86 * random.standard_t(2.5, (annotators, tasks))


CASES: dict[str, dict[str, Any]] = {
    "factor model holds": {},
    "EM's model holds": {"binary": True},
    "scores rounded to 0.1": {"step": 0.1},
    "70 % missing": {"missing": 0.7},
    "30 % answer at random": {"guessing": 0.3},
    "heavy-tailed errors": {"errors": heavy},
    "correlated errors in a third": {"errors": related},
    "error shared by all, sd 0.1": {"shared_bias": 0.1},
}


def matrix_of(scores: Floats) -> ScoreMatrix:
    annotators, tasks = scores.shape
    return ScoreMatrix.from_arrays(scores, [f"a{m:02d}" for m in range(annotators)], range(tasks), ["justice"] * tasks)


def covered(low: Floats, high: Floats, target: Floats) -> Floats:
    """Where the interval holds the target; NaN where there is no interval."""
    return np.where(np.isnan(low), np.nan, (low <= target) & (target <= high))


def consensus_row(case: dict[str, Any], annotators: int) -> list[float]:
    rows = []
    for seed in range(POOLS):
        scores, truth, further = Simulation(seed, annotators, **case).tasks(TASKS)
        matrix = matrix_of(scores)
        found = fit_calibrated(matrix).predict(matrix)
        gamma = TruncatedNormalEM().fit(matrix).gamma_
        sure = np.abs(gamma - 0.5) > 0.45
        right = ((gamma > 0.5) == (truth > 0.5))[sure]
        rows.append(
            [
                np.nanmean(covered(found.ci_low, found.ci_high, further)),
                np.nanmean(covered(found.ci_low, found.ci_high, truth)),
                np.nanmean(found.ci_high - found.ci_low),
                np.nanmean(np.abs(found.consensus - further)),
                right.mean() if len(right) else np.nan,
            ]
        )
    return [float(value) for value in np.nanmean(rows, axis=0)]


def bootstrap_row(case: dict[str, Any], tasks: int) -> list[float]:
    rows = []
    for seed in range(POOLS):
        simulation = Simulation(seed, 6, **case)
        matrix, large = (matrix_of(simulation.tasks(count)[0]) for count in (tasks, LIMIT))
        limit = TruncatedNormalEM().fit(large).model_
        shard, model = Shard(matrix), TruncatedNormalEM().fit(matrix).model_
        assert model is not None
        assert limit is not None
        drawn = bootstrap(model, shard, DRAWS, seed)
        ends = {name: values.to_numpy() for name, values in drawn.reliability().items()}
        mu, sigma = limit.parameters.mu[:, 0], limit.parameters.sigma[:, 0]
        targets = {"ci": jeffreys_divergence(mu[1], sigma[1], mu[0], sigma[0]), "mu1": mu[1], "mu0": mu[0]}
        shares = [covered(ends[f"{name}_low"], ends[f"{name}_high"], at).mean() for name, at in targets.items()]
        low, high = drawn.consensus(matrix)
        gamma = shard.posterior(limit.parameters)
        undecided = np.abs(gamma - 0.5) < 0.49
        lowest, highest = alpha_interval(matrix, DRAWS, seed=seed)
        rows.append(
            [*shares, covered(low, high, gamma)[undecided].mean(), lowest <= krippendorff_alpha(large) <= highest]
        )
    return [float(value) for value in np.mean(rows, axis=0)]


def consensus_table() -> Iterator[str]:
    yield "| scores | annotators | covers further value | covers truth | mean width | mean error | EM sure and right |"
    yield "|---|---|---|---|---|---|---|"
    for name, case in CASES.items():
        for annotators in (6, 20):
            further, truth, width, error, right = consensus_row(case, annotators)
            yield (
                f"| {name} | {annotators} | {further:.1%} | {'' if case.get('binary') else f'{truth:.1%}'} | "
                f"{width:.2f} | {error:.3f} | {right:.1%} |"
            )


def bootstrap_table() -> Iterator[str]:
    yield "| scores | tasks | informativeness | mu1 | mu0 | gamma | alpha |"
    yield "|---|---|---|---|---|---|---|"
    for name in ("EM's model holds", "factor model holds", "correlated errors in a third"):
        for tasks in (100, 600):
            cells = " | ".join(f"{value:.0%}" for value in bootstrap_row(CASES[name], tasks))
            yield f"| {name} | {tasks} | {cells} |"


def main() -> None:
    started = time.perf_counter()
    print(f"Calibrated consensus, {POOLS} pools of {TASKS} tasks each:\n")
    for line in consensus_table():
        print(line, flush=True)
    print(f"\nBootstrap over items, {POOLS} pools of 6 annotators, {DRAWS} draws:\n")
    for line in bootstrap_table():
        print(line, flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
