"""EM per iteration against crowd-kit's Dawid-Skene and against one sum over the same memory. Run with -s."""

import resource
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from crowdkit.aggregation import DawidSkene
from threadpoolctl import threadpool_limits

from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.posterior import Shard
from consilience.consensus.truncated_normal import fit_box

TASKS, ANNOTATORS = 1_000_000, 10
DAWID_SKENE_TASKS = 100_000  # 1 M answers; its time per answer is what is compared
ROUNDS = 5


def make_scores() -> np.ndarray:
    """(M, N): a latent label seen through annotators of different clarity."""
    rng = np.random.default_rng(0)
    label = rng.random(TASKS) < 0.45
    scores = np.empty((ANNOTATORS, TASKS))
    for m, row in enumerate(scores):
        row[:] = np.clip(0.4 + (0.05 + 0.02 * m) * label + 0.15 * rng.standard_normal(TASKS), 0.0, 1.0)
    return scores


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@pytest.mark.bench
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*:pandas.errors.Pandas4Warning")
def test_em_speed() -> None:
    with threadpool_limits(1):
        pa.set_cpu_count(1)
        scores = make_scores()
        matrix = ScoreMatrix.from_arrays(
            scores, [f"a{m}" for m in range(ANNOTATORS)], np.arange(TASKS), np.full(TASKS, "justice")
        )
        shard, em = Shard(matrix), TruncatedNormalEM()
        start = shard.step(None)
        fitted = em._m_step(start)
        fit_seconds = seconds(lambda: em.fit(matrix))
        tracemalloc.start()
        em.fit(matrix)
        fit_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        peak = peak_gb()

        def iteration() -> None:
            statistics = shard.step(fitted)
            em._objective(fitted, statistics)
            em._m_step(statistics)

        part = matrix.scores[:, :DAWID_SKENE_TASKS]
        answers = pd.DataFrame(
            {
                "task": np.tile(np.arange(DAWID_SKENE_TASKS), ANNOTATORS),
                "worker": np.repeat(np.arange(ANNOTATORS), DAWID_SKENE_TASKS),
                "label": (part > 0.5).astype(int).ravel(),
            }
        )
        rng = np.random.default_rng(1)
        m1 = rng.uniform(0.2, 0.8, 60)
        m2 = m1**2 + rng.uniform(0.05, 0.2, 60) ** 2
        runs: dict[str, Callable[[], object]] = {
            "sum": matrix.scores.sum,
            "em": iteration,
            "m_step_60": lambda: fit_box(m1, m2),
            "dawid_skene_1": lambda: DawidSkene(n_iter=1, tol=-np.inf).fit(answers),
            "dawid_skene_3": lambda: DawidSkene(n_iter=3, tol=-np.inf).fit(answers),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, call in runs.items():
                times[name].append(seconds(call))

    median = {name: float(np.median(values)) for name, values in times.items()}
    dawid_skene = 0.5 * (median["dawid_skene_3"] - median["dawid_skene_1"]) * TASKS / DAWID_SKENE_TASKS
    print(f"\n{TASKS:,} tasks x {ANNOTATORS} annotators, one thread, median of {ROUNDS} interleaved rounds")
    print(f"  one sum over the scores          {1e3 * median['sum']:9.1f} ms")
    print(
        f"  EM, one iteration                {1e3 * median['em']:9.1f} ms  {median['em'] / median['sum']:.1f} x the sum"
    )
    print(
        f"  crowd-kit Dawid-Skene, iteration {1e3 * dawid_skene:9.1f} ms  {dawid_skene / median['em']:.0f} x the EM "
        f"(measured on {part.size:,} binary answers, scaled per answer)"
    )
    print(f"  M-step of 60 annotator-classes   {1e3 * median['m_step_60']:9.2f} ms")
    print(f"  whole fit                        {fit_seconds:9.2f} s   {em.iterations_} iterations, {em.stopped_}")
    print(
        f"  peak memory of the process       {peak:9.2f} GB  (scores {matrix.scores.nbytes / 2**30:.2f}, "
        f"the fit adds {fit_bytes / 2**30:.2f}; {peak_gb():.2f} after Dawid-Skene on a tenth of the answers)"
    )
