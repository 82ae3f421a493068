"""What holds of the EM on any data: monotone objective, invariance to order and to sharding."""

import operator
from functools import reduce

import numpy as np
import pandas as pd
import pytest
from consensus_simulation import draw, matrix_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.posterior import Parameters, Shard
from consilience.consensus.truncated_normal import log_density_coefficients

THEORIES = ("commonsense", "justice", "virtue")


@st.composite
def matrices(draw_from: st.DrawFn) -> ScoreMatrix:
    """3-6 annotators, 4-60 tasks, scores uniform, rounded, skewed or binary, up to 60 % of them missing."""
    rng = np.random.default_rng(draw_from(st.integers(0, 2**32 - 1)))
    annotators, tasks = draw_from(st.integers(3, 6)), draw_from(st.integers(4, 60))
    scores = rng.beta(*draw_from(st.sampled_from([(1, 1), (0.1, 0.1), (2, 8), (30, 30)])), (annotators, tasks))
    decimals = draw_from(st.sampled_from([0, 1, 8]))
    scores = scores.round(decimals)
    scores[rng.random(scores.shape) < draw_from(st.sampled_from([0.0, 0.2, 0.6]))] = np.nan
    seen = ~np.isnan(scores)
    assume(np.count_nonzero(seen.any(axis=1)) > 2)
    assume(np.nanmax(np.nanmax(scores, axis=1, initial=0) - np.nanmin(scores, axis=1, initial=1)) > 0)
    return matrix_of(scores, [THEORIES[t] for t in rng.integers(0, draw_from(st.integers(1, 3)), tasks)])


OPTIONS = st.fixed_dictionaries(
    {"prior": st.sampled_from(["global", "per_theory", 0.3]), "parameters": st.sampled_from(["pooled", "per_theory"])}
)


@settings(deadline=None, max_examples=80)
@given(matrices(), OPTIONS, st.booleans())
def test_the_objective_never_decreases(matrix: ScoreMatrix, options: dict, with_gold: bool) -> None:
    gold = matrix.task_frame(label=np.linspace(0, 1, matrix.scores.shape[1])).iloc[::3] if with_gold else None
    em = TruncatedNormalEM(**options).fit(matrix, gold)
    assert np.all(np.diff(em.trace_) >= -1e-9 * (1.0 + np.abs(em.trace_[-1])))
    assert np.all((em.gamma_ >= 0.0) & (em.gamma_ <= 1.0) | np.isnan(em.gamma_))
    unseen = np.isnan(matrix.scores).all(axis=0)
    if gold is None:
        np.testing.assert_array_equal(np.isnan(em.gamma_), unseen)


@settings(deadline=None, max_examples=40)
@given(matrices(), st.randoms(use_true_random=False))
def test_the_order_of_annotators_and_items_does_not_matter(matrix: ScoreMatrix, random) -> None:
    em = TruncatedNormalEM(max_iterations=30).fit(matrix)
    annotators = random.sample(range(len(matrix.annotators)), len(matrix.annotators))
    tasks = random.sample(range(matrix.scores.shape[1]), matrix.scores.shape[1])
    frame = matrix.task_frame()
    shuffled = ScoreMatrix.from_arrays(
        matrix.scores[annotators][:, tasks],
        [matrix.annotators[m] for m in annotators],
        matrix.items[tasks],
        frame["theory"].iloc[tasks].tolist(),
    )
    other = TruncatedNormalEM(max_iterations=30).fit(shuffled)
    both = em.consensus_.merge(other.consensus_, on=["item_id", "theory"])
    np.testing.assert_allclose(both["consensus_x"], both["consensus_y"], atol=1e-6)
    rows = em.parameters_.merge(other.parameters_, on=["annotator", "theory"])
    np.testing.assert_allclose(rows["mean1_x"], rows["mean1_y"], atol=1e-6)


def test_the_objective_is_the_log_likelihood_plus_the_pseudo_observations() -> None:
    _, scores = draw(300, seed=3)
    scores[0, :50] = np.nan
    em = TruncatedNormalEM(kappa=1e-9).fit(matrix_of(scores))
    parameters = em.model_.parameters
    density = log_density_coefficients(parameters.mu[:, 0], parameters.sigma[:, 0])
    log_f = density[..., [0]] + density[..., [1]] * scores + density[..., [2]] * scores**2
    weight = np.log([1 - parameters.prior[0], parameters.prior[0]])
    log_likelihood = np.logaddexp(*(weight[:, None] + np.nansum(log_f, axis=1))).sum()
    assert em.trace_[-1] == pytest.approx(log_likelihood, abs=1e-6)
    posterior = 1 / (1 + np.exp(-(np.diff(weight) - np.subtract(*np.nansum(log_f, axis=1)))))
    np.testing.assert_allclose(em.gamma_, posterior, atol=1e-12)


@pytest.mark.parametrize("parameters", ["pooled", "per_theory"])
@pytest.mark.parametrize("shards", [2, 3, 7])
def test_sharding_does_not_change_the_result(shards: int, parameters) -> None:
    label, scores = draw(5_000, seed=0)
    scores[np.random.default_rng(0).random(scores.shape) < 0.2] = np.nan
    scores[:, 17] = np.nan
    theories = [THEORIES[i % 3] for i in range(5_000)]
    matrix = matrix_of(scores, theories)
    gold = matrix.task_frame(label=np.where(label, 1.0, 0.0)[matrix.items.astype(int)]).iloc[::50]
    whole = TruncatedNormalEM(prior="per_theory", parameters=parameters).fit(matrix, gold)

    owner = np.random.default_rng(1).integers(0, shards, 5_000)
    owner[owner == shards - 1] *= (theories_of(matrix) != "virtue")[owner == shards - 1]  # none of virtue in the last
    held = [np.flatnonzero(owner == k) for k in range(shards)]
    parts = [Shard(matrix.take(tasks), gold) for tasks in held]

    def step(parameters: Parameters | None):
        return reduce(operator.add, [part.step(parameters) for part in parts])

    em = TruncatedNormalEM(prior="per_theory", parameters=parameters)
    em.run(step, reduce(operator.add, [part.profile() for part in parts]), len(gold))
    gamma = np.empty(5_000)
    for tasks, part in zip(held, parts, strict=True):
        gamma[tasks] = part.posterior(em.model_.parameters)

    assert (em.iterations_, em.stopped_, em.notes_) == (whole.iterations_, whole.stopped_, whole.notes_)
    np.testing.assert_allclose(gamma, whole.gamma_, atol=1e-9)
    np.testing.assert_allclose(em.trace_, whole.trace_, rtol=1e-9)
    pd.testing.assert_frame_equal(em.parameters_, whole.parameters_, atol=1e-9, rtol=1e-9)


def theories_of(matrix: ScoreMatrix) -> np.ndarray:
    return matrix.task_frame()["theory"].to_numpy()


def test_a_fit_repeats_exactly() -> None:
    matrix = matrix_of(draw(3_000, seed=0)[1])
    np.testing.assert_array_equal(TruncatedNormalEM().fit(matrix).gamma_, TruncatedNormalEM().fit(matrix).gamma_)
