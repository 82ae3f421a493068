"""The EM: recovery of known parameters, robustness, orientation, gold, priors, degenerate pools."""

import numpy as np
import pandas as pd
import pytest
from consensus_simulation import PUBLISHED, draw, matrix_of

from consilience.consensus import baselines
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.misalignment import confusion, f1_score
from consilience.consensus.posterior import Parameters, Shard, Statistics
from consilience.errors import UserError
from consilience.table_schema import column_names
from consilience.tables import RELIABILITY

N = 20_000
MU_SIGMA = ["mu1", "sigma1", "mu0", "sigma0"]


def accuracy(consensus: np.ndarray, label: np.ndarray) -> float:
    return float(np.mean((consensus > 0.5) == label))


def noise(kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(1000 + seed)
    return {
        "random01": lambda: (rng.random(N) < 0.5) * 1.0,
        "random01, p=.3": lambda: (rng.random(N) < 0.3) * 1.0,
        "uniform": lambda: rng.random(N),
        "constant": lambda: np.full(N, 0.5),
    }[kind]()


def test_published_parameters_are_recovered() -> None:
    label, scores = draw(N, seed=0)
    matrix = matrix_of(scores)
    em = TruncatedNormalEM().fit(matrix)
    assert em.stopped_ == "converged"
    assert em.iterations_ <= 30
    assert list(em.parameters_.columns) == column_names(RELIABILITY)
    np.testing.assert_allclose(em.parameters_[MU_SIGMA], PUBLISHED, atol=0.006)
    assert em.model_.parameters.prior == pytest.approx([0.45], abs=0.01)
    assert accuracy(em.gamma_, label) == pytest.approx(0.936, abs=0.004)
    assert accuracy(baselines.mean(matrix), label) == pytest.approx(0.918, abs=0.004)
    f1 = f1_score(confusion(matrix, em.gamma_))[0]
    np.testing.assert_allclose(f1, [0.807, 0.739, 0.734, 0.619], atol=0.012)
    np.testing.assert_allclose(
        f1_score(confusion(matrix, baselines.mean(matrix)))[0], [0.760, 0.729, 0.731, 0.641], atol=0.012
    )
    assert em.parameters_["informativeness"].is_monotonic_decreasing is False
    assert em.parameters_["informativeness"].idxmax() == 0
    assert em.parameters_["informativeness"].idxmin() == 3


def test_rounded_scores() -> None:
    label, scores = draw(N, seed=0)
    matrix = matrix_of(scores.round(1))
    assert accuracy(TruncatedNormalEM().fit(matrix).gamma_, label) == pytest.approx(0.931, abs=0.004)
    assert accuracy(baselines.mean(matrix), label) == pytest.approx(0.904, abs=0.005)


@pytest.mark.parametrize("mstep", ["exact", "naive"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["random01", "random01, p=.3", "uniform", "constant"])
def test_a_noise_annotator_does_not_capture_the_consensus(kind: str, seed: int, mstep) -> None:
    label, scores = draw(N, seed)
    base = TruncatedNormalEM(mstep=mstep).fit(matrix_of(scores))
    with_noise = matrix_of(np.vstack([scores, noise(kind, seed)]))
    em = TruncatedNormalEM(mstep=mstep).fit(with_noise)
    assert accuracy(em.gamma_, label) == pytest.approx(accuracy(base.gamma_, label), abs=0.004)
    assert np.mean((em.gamma_ > 0.5) == (base.gamma_ > 0.5)) > 0.986
    stranger = em.parameters_.iloc[-1]
    assert stranger["informativeness"] < 0.01
    assert stranger["mean1"] == pytest.approx(stranger["mean0"], abs=0.04)
    if kind.startswith("random01"):
        assert accuracy(baselines.mean(with_noise), label) < 0.72
        assert any("'a4' gives exactly 0 or 1 in 100%" in note for note in em.notes_)
    if kind == "constant":
        assert any("'a4' gives 0.5 throughout" in note for note in em.notes_)


def test_a_single_inverted_annotator_stays_inverted_and_informs() -> None:
    label, scores = draw(N, seed=0)
    base = TruncatedNormalEM().fit(matrix_of(scores))
    scores[0] = 1.0 - scores[0]
    em = TruncatedNormalEM().fit(matrix_of(scores))
    np.testing.assert_allclose(em.parameters_.loc[0, MU_SIGMA].astype(float), [0.342, 0.129, 0.582, 0.140], atol=0.006)
    assert accuracy(em.gamma_, label) == pytest.approx(accuracy(base.gamma_, label), abs=0.001)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("negated", [False, True])
def test_a_copy_costs_accuracy_and_makes_the_posterior_too_sure(negated: bool, seed: int) -> None:
    """What conditional independence is worth: the same evidence counted twice."""
    label, scores = draw(N, seed)
    base = TruncatedNormalEM().fit(matrix_of(scores))
    em = TruncatedNormalEM().fit(matrix_of(np.vstack([scores, 1.0 - scores[0] if negated else scores[0]])))
    assert 0.84 < accuracy(em.gamma_, label) < 0.90 < accuracy(base.gamma_, label)
    assert np.abs(em.gamma_ - 0.5).mean() > np.abs(base.gamma_ - 0.5).mean()


def inverted_start(shard: Shard, theories: slice):
    """The E-step of `shard`, but for a start with gamma and 1 - gamma exchanged under some theories."""

    def step(parameters: Parameters | None) -> Statistics:
        statistics = shard.step(parameters)
        if parameters is None:
            statistics.class1[theories] = statistics.totals[theories] - statistics.class1[theories]
            statistics.gamma[theories] = statistics.tasks[theories] - statistics.gamma[theories]
        return statistics

    return step


@pytest.mark.parametrize("prior", ["global", "per_theory", 0.45])
@pytest.mark.parametrize(("parameters", "theories"), [("pooled", slice(None)), ("per_theory", slice(0, 1))])
def test_orientation_is_global_over_annotators(prior, parameters, theories: slice) -> None:
    _, scores = draw(6_000, seed=0)
    shard = Shard(matrix_of(scores, ["justice", "virtue"] * 3_000))
    em = TruncatedNormalEM(prior=prior, parameters=parameters, tolerance=1e-12)
    em.run(shard.step, shard.profile())
    expected = em.parameters_
    em.run(inverted_start(shard, theories), shard.profile())
    np.testing.assert_allclose(em.parameters_[MU_SIGMA], expected[MU_SIGMA], atol=1e-5)
    assert np.all(np.diff(em.trace_) >= -1e-9 * abs(em.trace_[-1]))


def test_gold_pins_gamma() -> None:
    label, scores = draw(2_000, seed=0)
    labels = np.where(label[:100], 0.9, 0.0)
    gold = pd.DataFrame({"item_id": [str(i) for i in range(100)], "theory": "justice", "label": labels})
    em = TruncatedNormalEM().fit(matrix_of(scores), gold.sample(frac=1, random_state=0))
    np.testing.assert_array_equal(em.gamma_[:100], labels)
    assert accuracy(em.gamma_[100:], label[100:]) > 0.92
    assert np.all(np.diff(em.trace_) >= -1e-9 * abs(em.trace_[-1]))


def test_gold_decides_the_orientation_of_an_inverted_pool() -> None:
    label, scores = draw(5_000, seed=0)
    matrix = matrix_of(1.0 - scores)
    gold = pd.DataFrame({"item_id": [str(i) for i in range(50)], "theory": "justice", "label": label[:50] * 1.0})
    assert accuracy(TruncatedNormalEM().fit(matrix).gamma_, label) < 0.1
    assert accuracy(TruncatedNormalEM().fit(matrix, gold).gamma_, label) > 0.92


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gold: gold.drop(columns="label"), "gold: missing column 'label'"),
        (lambda gold: gold.assign(label=1.5), "gold: row 1: expected a label from 0 to 1, found 1.5"),
        (lambda gold: pd.concat([gold, gold]), "gold: row 3 repeats item_id 0, theory justice"),
        (lambda gold: gold.assign(theory="virtue"), "gold: none of its 2 rows"),
    ],
)
def test_bad_gold_is_refused(change, message: str) -> None:
    gold = pd.DataFrame({"item_id": ["0", "1"], "theory": "justice", "label": [0.0, 1.0]})
    with pytest.raises(UserError, match=message):
        TruncatedNormalEM().fit(matrix_of(draw(50, seed=0)[1]), change(gold))


def test_gold_that_names_other_items_is_noted() -> None:
    gold = pd.DataFrame({"item_id": ["0", "elsewhere"], "theory": "justice", "label": [0.0, 1.0]})
    em = TruncatedNormalEM().fit(matrix_of(draw(50, seed=0)[1]), gold)
    assert em.notes_ == ["gold: 1 of 2 rows name no item and theory of the annotations"]


def two_theories() -> tuple[np.ndarray, ScoreMatrix]:
    """Annotators who are good under justice and differ under virtue, where fewer tasks are acceptable."""
    label_j, justice = draw(8_000, seed=1, prior=0.7)
    label_v, virtue = draw(8_000, seed=2, parameters=PUBLISHED[[3, 2, 1, 0]] - [0.1, 0, 0.1, 0], prior=0.2)
    matrix = matrix_of(np.hstack([justice, virtue]), ["justice"] * 8_000 + ["virtue"] * 8_000)
    return np.concatenate([label_j, label_v]), matrix


def test_parameters_and_priors_per_theory() -> None:
    label, matrix = two_theories()
    apart = TruncatedNormalEM(prior="per_theory", parameters="per_theory").fit(matrix)
    assert apart.parameters_["theory"].tolist() == ["justice"] * 4 + ["virtue"] * 4
    np.testing.assert_allclose(apart.parameters_[MU_SIGMA][:4], PUBLISHED, atol=0.012)
    np.testing.assert_allclose(apart.parameters_[MU_SIGMA][4:], PUBLISHED[[3, 2, 1, 0]] - [0.1, 0, 0.1, 0], atol=0.015)
    np.testing.assert_allclose(apart.model_.parameters.prior, [0.7, 0.2], atol=0.02)
    pooled = TruncatedNormalEM().fit(matrix)
    assert pooled.parameters_["theory"].tolist() == ["all"] * 4
    assert pooled.parameters_["n"].tolist() == [16_000] * 4
    assert accuracy(pooled.gamma_, label) < accuracy(apart.gamma_, label) - 0.01
    assert TruncatedNormalEM(prior=0.3).fit(matrix).model_.parameters.prior.tolist() == [0.3, 0.3]


def test_per_theory_with_one_theory_is_pooled() -> None:
    matrix = matrix_of(draw(1_000, seed=0)[1])
    pooled = TruncatedNormalEM().fit(matrix)
    apart = TruncatedNormalEM(prior="per_theory", parameters="per_theory").fit(matrix)
    np.testing.assert_array_equal(pooled.gamma_, apart.gamma_)


def test_a_frame_and_its_matrix_give_the_same() -> None:
    _, scores = draw(200, seed=0)
    matrix = matrix_of(scores)
    frame = pd.DataFrame(scores.T, columns=matrix.annotators).assign(item_id=matrix.items, theory="justice")
    long = frame.melt(["item_id", "theory"], var_name="annotator", value_name="score")
    expected = TruncatedNormalEM().fit(matrix).consensus_.sort_values("item_id", ignore_index=True)
    pd.testing.assert_frame_equal(TruncatedNormalEM().fit(long).consensus_, expected, rtol=1e-9)


def test_two_annotators_get_their_mean_and_a_warning() -> None:
    matrix = matrix_of(np.vstack([draw(50, seed=0)[1][:2], np.full(50, np.nan)]))
    with pytest.warns(UserWarning, match="two annotators: the consensus is their mean"):
        em = TruncatedNormalEM().fit(matrix)
    assert em.stopped_ == "two_annotators"
    assert em.notes_[0] == "annotator 'a2' has no score"
    assert em.model_ is None
    assert list(em.parameters_.columns) == column_names(RELIABILITY)
    np.testing.assert_allclose(em.gamma_, matrix.scores[:2].mean(axis=0))
    np.testing.assert_allclose(em.predict(matrix)["consensus"], em.gamma_)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.random.default_rng(0).random((1, 9)), "1 annotator with scores; expected two or more"),
        (np.full((3, 9), np.nan), "0 annotator"),
        (np.repeat([[0.1], [0.5], [1.0]], 9, axis=1), "every annotator gives one and the same score"),
    ],
)
def test_pools_without_a_consensus_are_refused(scores: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TruncatedNormalEM().fit(matrix_of(scores))


def test_what_is_missing_stays_missing_and_spoils_nothing() -> None:
    _, scores = draw(4_000, seed=0)
    theories = ["justice", "virtue"] * 2_000
    complete = TruncatedNormalEM(parameters="per_theory").fit(matrix_of(scores, theories))
    gaps = np.vstack([scores, np.full(4_000, np.nan), scores[0]])
    gaps[5, ::2] = np.nan  # the last annotator has no score under justice
    gaps[:, 10] = np.nan
    em = TruncatedNormalEM(parameters="per_theory").fit(matrix_of(gaps, theories))
    without = em.consensus_["consensus"].isna()
    assert em.consensus_.loc[without, "item_id"].tolist() == ["10"]
    assert em.consensus_.loc[without, "n_annotators"].tolist() == [0]
    silent = em.parameters_["n"] == 0
    assert list(zip(em.parameters_["annotator"][silent], em.parameters_["theory"][silent], strict=True)) == [
        ("a4", "justice"),
        ("a5", "justice"),
        ("a4", "virtue"),
    ]
    assert em.parameters_.loc[silent, MU_SIGMA].isna().all(axis=None)
    assert em.parameters_.loc[~silent, MU_SIGMA].notna().all(axis=None)
    justice = (em.consensus_["theory"] == "justice").to_numpy() & ~without.to_numpy()
    np.testing.assert_allclose(em.gamma_[justice], complete.gamma_[justice], atol=0.05)
    assert np.isfinite(em.trace_).all()


def test_stops_at_the_limit() -> None:
    em = TruncatedNormalEM(max_iterations=3).fit(matrix_of(draw(500, seed=0)[1]))
    assert (em.stopped_, em.iterations_, len(em.trace_)) == ("max_iterations", 3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "flat"}, "prior: expected global, per_theory or a number between 0 and 1, found 'flat'"),
        ({"prior": 1.0}, "prior"),
        ({"parameters": "shared"}, "parameters"),
        ({"mstep": "fast"}, "mstep"),
        ({"kappa": 0.0}, "kappa: expected a number above 0"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
    ],
)
def test_bad_options_are_refused(options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TruncatedNormalEM(**options)
