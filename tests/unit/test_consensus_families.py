"""Families of near-copies: found where they are, and not where annotators merely agree."""

import numpy as np
import pytest
from consensus_simulation import draw, matrix_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consilience.consensus.families import MIN_SHARED, families, residual_correlation


def pool(seed: int, annotators: int, tasks: int, copies: int = 0, share: float = 0.0) -> NDArray[np.float64]:
    """(M, N) scores by degree; the first `copies` annotators share `share` of their error variance."""
    random = np.random.default_rng(seed)
    truth = random.beta(0.6, 0.6, tasks)
    error = random.normal(size=(annotators, tasks))
    error[:copies] = np.sqrt(share) * random.normal(size=tasks) + np.sqrt(1.0 - share) * error[:copies]
    gain, noise = random.uniform(0.5, 1.1, (annotators, 1)), random.uniform(0.1, 0.25, (annotators, 1))
    return np.clip(0.5 + gain * (truth - 0.5) + noise * error, 0.0, 1.0)


@pytest.mark.parametrize(("annotators", "copies"), [(4, 2), (6, 2), (6, 3), (30, 4)])
def test_copies_are_one_family_and_no_one_else_is(annotators: int, copies: int) -> None:
    for seed in range(5):
        table = families(matrix_of(pool(seed, annotators, 400, copies, 0.9)))
        assert table["family"][:copies].tolist() == ["a0"] * copies
        assert table["family"][copies:].isna().all()
        assert set(table["closest"][:copies]) <= {f"a{m}" for m in range(copies)}


@pytest.mark.parametrize("annotators", [4, 12, 30])
def test_independent_annotators_have_no_family(annotators: int) -> None:
    for seed in range(10):
        assert families(matrix_of(pool(seed, annotators, 100)))["family"].isna().all()
        assert families(matrix_of(draw(100, seed)[1]))["family"].isna().all()


def test_two_families_stay_two() -> None:
    scores = pool(0, 12, 400, copies=3, share=0.9)
    scores[3:6] = np.clip(scores[3] + np.random.default_rng(1).normal(0.0, 0.02, (3, 400)), 0.0, 1.0)
    family = families(matrix_of(scores))["family"]
    assert family.tolist()[:6] == ["a0"] * 3 + ["a3"] * 3
    assert family[6:].isna().all()


def test_residual_correlation_is_that_of_the_errors() -> None:
    correlation, shared = residual_correlation(matrix_of(pool(0, 10, 20_000, copies=2, share=0.6)))
    assert correlation[0, 1] == pytest.approx(0.6, abs=0.1)  # clipped scores share a little less
    rest = correlation[2:, 2:][~np.eye(8, dtype=bool)]
    assert np.abs(rest).max() < 0.1
    assert (shared == 20_000).all()
    np.testing.assert_array_equal(correlation, correlation.T)


def test_exact_copy_correlates_fully_and_inverted_annotator_is_no_copy() -> None:
    scores = pool(0, 6, 300)
    scores[1], scores[2] = scores[0], 1.0 - scores[3]
    correlation, _ = residual_correlation(matrix_of(scores))
    assert correlation[0, 1] == pytest.approx(1.0)
    assert correlation[2, 3] == pytest.approx(-1.0)
    assert families(matrix_of(scores))["family"].notna().tolist() == [True, True] + [False] * 4


def test_too_few_shared_tasks_say_nothing() -> None:
    scores = pool(0, 4, 100)
    scores[1] = scores[0]
    scores[1, MIN_SHARED - 1 :] = np.nan
    correlation, shared = residual_correlation(matrix_of(scores))
    assert shared[0, 1] == MIN_SHARED - 1
    assert np.isnan(correlation[0, 1])
    table = families(matrix_of(scores))
    assert table["family"].isna().all()
    assert table["closest"][1] is None or table["closest"].isna()[1]
    assert np.isnan(table["correlation"][1])


@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_any_matrix_has_a_table(annotators: int, tasks: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = np.round(random.random((annotators, tasks)), random.integers(0, 3))
    scores[random.random(scores.shape) < 0.3] = np.nan
    table = families(matrix_of(scores))
    assert table["annotator"].tolist() == [f"a{m}" for m in range(annotators)]
    assert (table["correlation"].dropna().abs() <= 1.0).all()
