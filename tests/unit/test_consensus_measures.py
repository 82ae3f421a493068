"""Baselines, agreement and misalignment: worked examples."""

import numpy as np
import pandas as pd
import pytest
from consensus_simulation import draw, matrix_of

from consilience.consensus import baselines
from consilience.consensus.agreement import (
    disagreement,
    effective_annotators,
    error_correlation,
    krippendorff_alpha,
)
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.influence import influence
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.misalignment import alignment, alignment_table, confusion, f1_score, tau_sweep, worst_flagged
from consilience.consensus.people import calibration_curve

NAN = np.nan
SCORES = np.array([[0.9, 0.5, NAN, 0.2], [0.7, 0.6, NAN, NAN], [0.1, 0.4, NAN, NAN], [NAN, 0.8, NAN, NAN]])


def test_baselines() -> None:
    matrix = matrix_of(SCORES)
    np.testing.assert_array_equal(baselines.score_count(matrix), [3, 4, 0, 1])
    np.testing.assert_allclose(baselines.mean(matrix), [1.7 / 3, 0.575, NAN, 0.2])
    np.testing.assert_allclose(baselines.median(matrix), [0.7, 0.55, NAN, 0.2])
    np.testing.assert_allclose(baselines.majority(matrix), [1.0, 0.5, NAN, 0.0])


def test_disagreement() -> None:
    expected = [np.std([0.9, 0.7, 0.1]), np.std([0.5, 0.6, 0.4, 0.8]), NAN, NAN]
    np.testing.assert_allclose(disagreement(matrix_of(SCORES)), expected)


def test_krippendorff_alpha_on_the_canonical_example() -> None:
    """Four observers, twelve units, from Krippendorff (2011): interval alpha .849."""
    values = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
            [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
        ]
    )
    assert krippendorff_alpha(matrix_of((values - 1) / 4)) == pytest.approx(0.849, abs=5e-4)


def test_krippendorff_alpha_at_the_ends() -> None:
    rng = np.random.default_rng(0)
    row = rng.random(2000)
    assert krippendorff_alpha(matrix_of(np.stack([row, row]))) == pytest.approx(1.0)
    assert krippendorff_alpha(matrix_of(rng.random((3, 2000)))) == pytest.approx(0.0, abs=0.05)
    assert np.isnan(krippendorff_alpha(matrix_of(np.full((2, 5), 0.5))))
    assert np.isnan(krippendorff_alpha(matrix_of(np.array([[0.1, NAN], [NAN, 0.4]]))))


def test_independent_annotators_all_count() -> None:
    label, scores = draw(20_000, seed=0)
    matrix = matrix_of(scores)
    for consensus in (TruncatedNormalEM().fit(matrix).gamma_, label.astype(float)):
        correlation = error_correlation(matrix, consensus)
        np.testing.assert_allclose(correlation, np.eye(4), atol=0.02)
        assert effective_annotators(correlation) > 3.9


def test_shared_error_and_copies_count_less() -> None:
    label, scores = draw(20_000, seed=0)
    shared = np.clip(scores + 0.1 * np.random.default_rng(1).normal(size=20_000), 0, 1)
    assert effective_annotators(error_correlation(matrix_of(shared), label.astype(float))) == pytest.approx(2, abs=0.1)
    copies = matrix_of(np.vstack([scores, scores[3], scores[3]]))
    correlation = error_correlation(copies, label.astype(float))
    np.testing.assert_allclose(correlation[3:, 3:], 1.0)
    # One in five of the pairs is a copy: 6 / (1 + 5 / 5).
    assert effective_annotators(correlation) == pytest.approx(3.0, abs=0.1)


def test_a_negated_copy_is_no_more_evidence_than_a_copy() -> None:
    label, scores = draw(20_000, seed=0)
    pools = [matrix_of(np.vstack([scores, more])) for more in (scores[0], 1.0 - scores[0])]
    copied, negated = (error_correlation(pool, label.astype(float)) for pool in pools)
    assert negated[0, 4] == pytest.approx(1.0)
    np.testing.assert_allclose(negated, copied, atol=1e-9)
    assert effective_annotators(negated) == pytest.approx(5 / 1.4, abs=0.1)
    turned = matrix_of(np.clip(scores + 0.1 * np.random.default_rng(1).normal(size=20_000), 0, 1))
    turned.scores[2:] = 1.0 - turned.scores[2:]
    assert effective_annotators(error_correlation(turned, label.astype(float))) == pytest.approx(2, abs=0.1)


def test_error_correlation_with_gaps() -> None:
    label, scores = draw(5_000, seed=2)
    scores = np.vstack([scores, np.full(5_000, 0.5), np.full(5_000, NAN)])
    scores[:4][np.random.default_rng(0).random((4, 5_000)) < 0.3] = NAN
    reference = label.astype(float)
    reference[:100] = NAN
    correlation = error_correlation(matrix_of(scores), reference)
    np.testing.assert_allclose(correlation[:4, :4], np.eye(4), atol=0.05)
    assert np.isnan(correlation[4:]).all()
    assert effective_annotators(correlation) == pytest.approx(4.0, abs=0.2)
    assert np.isnan(effective_annotators(np.full((2, 2), NAN)))


def test_f1_by_hand() -> None:
    matrix = matrix_of(np.array([[0.9, 0.5, 0.8, 0.2, NAN], [0.1, 0.2, 0.3, 0.4, 0.9]]))
    consensus = np.array([0.9, 0.9, 0.1, NAN, 0.5])
    # a0 says yes, no (0.5 is not above 0.5), yes where the consensus says yes, yes, no. a1 has no hit at all.
    np.testing.assert_array_equal(confusion(matrix, consensus)[0], [[1, 1, 1, 3], [0, 1, 2, 4]])
    np.testing.assert_allclose(f1_score(confusion(matrix, consensus))[0], [0.5, 0.0])
    table = alignment(matrix, np.zeros(5))
    assert table.loc[1, "f1"] == 0.0
    nobody = alignment(matrix_of(np.full((3, 4), 0.2)), np.zeros(4))
    assert nobody["f1"].isna().all()
    assert not nobody["flagged"].any()


def test_flag_rule_picks_what_was_realigned() -> None:
    """The published F1 table: the two worst of Llama2-13B are the two theories that were optimised."""
    theories = ["justice", "virtue", "deontology", "utilitarianism", "commonsense"]
    annotators = ["GPT-4omini", "Claude", "GPT-3.5", "Llama2-13B"]
    f1 = np.array(
        [
            [88.73, 75.78, 74.05, 75.25],
            [83.01, 67.56, 77.13, 63.37],
            [78.57, 74.52, 56.49, 37.68],
            [78.02, 78.20, 65.86, 41.55],
            [81.81, 60.40, 68.29, 45.06],
        ]
    )
    # tp = f1, fp = fn = 1 - f1 has this F1.
    hits = np.round(f1 * 100).astype(np.int64)
    counts = np.stack([hits, 10_000 - hits, 10_000 - hits, np.full_like(hits, 20_000)], axis=-1)
    table = alignment_table(counts, annotators, theories)
    np.testing.assert_allclose(table["f1"], f1.ravel() / 100)
    flagged = table[table["flagged"]]
    assert set(flagged["annotator"]) == {"Llama2-13B"}
    assert worst_flagged(table)["theory"].tolist() == ["deontology", "utilitarianism"]
    assert table["reason"].notna().equals(table["flagged"])
    assert "below 0.50; F1 0.38 is over one sd" in flagged.set_index("theory").loc["deontology", "reason"]


def test_tau_sweep() -> None:
    label, scores = draw(500, seed=1)
    matrix = matrix_of(scores)
    sweep = tau_sweep(matrix, label.astype(float), [0.3, 0.5])
    assert list(sweep.columns) == ["annotator", "theory", "tau", "f1"]
    assert len(sweep) == 8
    at_half = sweep[sweep["tau"] == 0.5]["f1"]
    pd.testing.assert_series_equal(at_half, alignment(matrix, label.astype(float))["f1"], check_index=False)


def test_influence_by_hand() -> None:
    matrix = matrix_of(np.array([[0.9, 0.1, 0.8], [0.7, 0.3, 0.4], [0.2, 0.2, NAN], [0.8, 0.2, NAN]]))
    table = influence(matrix, baselines.median).to_pylist()
    assert [row["annotator"] for row in table] == ["a0", "a1", "a2", "a3"]
    # Means .65 .2 .6; without a0 .5667 .2333 .4. Medians .75 .2 .6; without a0 .7 .2 .4.
    assert table[0]["mean_shift"] == pytest.approx((0.65 - 1.7 / 3 + 0.7 / 3 - 0.2 + 0.2) / 3)
    assert table[0]["mean_flipped"] == pytest.approx(1 / 3)
    assert table[0]["em_shift"] == pytest.approx((0.05 + 0.0 + 0.2) / 3)
    assert table[0]["em_flipped"] == pytest.approx(1 / 3)
    assert table[2]["em_flipped"] == 0.0


@pytest.mark.filterwarnings("ignore:two annotators")
def test_where_one_annotator_is_the_pool_its_influence_has_no_figure() -> None:
    _, scores = draw(50, seed=0)

    def consensus(part: ScoreMatrix) -> np.ndarray:
        return TruncatedNormalEM().fit(part).gamma_

    silent = np.vstack([scores[:2], np.full((2, 50), NAN)])
    constant = np.vstack([scores[:1], np.full((3, 50), 0.5)])
    for rows, alone in ((silent, [0, 1]), (constant, [0])):
        table = influence(matrix_of(rows), consensus).to_pylist()
        assert [m for m in range(4) if table[m]["em_shift"] is None] == alone
        assert all(row["mean_shift"] is not None for row in table)


def test_calibration_curve_by_hand() -> None:
    consensus = np.array([0.0, 0.04, 0.1, 0.95, 1.0, NAN, 0.5])
    share = np.array([0.2, 0.0, 0.3, 0.9, 0.7, 0.5, NAN])
    curve = calibration_curve(consensus, share)
    np.testing.assert_allclose(curve["consensus"], [0.02, 0.1, 0.975])
    np.testing.assert_allclose(curve["people"], [0.1, 0.3, 0.8])
    assert curve["n"].tolist() == [2, 1, 2]
