"""Measurement noise from repeated scores, and its place in the EM."""

import numpy as np
import pandas as pd
import pytest
from consensus_simulation import draw, matrix_of

from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.noise import measurement_noise, noise_floor
from consilience.consensus.truncated_normal import SIGMA_MIN, fit_box, fit_naive
from consilience.errors import UserError


def table(scores: np.ndarray) -> pd.DataFrame:
    matrix = matrix_of(scores)
    wide = matrix.task_frame(**dict(zip(matrix.annotators, matrix.scores, strict=True)))
    return wide.melt(["item_id", "theory"], var_name="annotator", value_name="score")


def test_known_noise_is_recovered() -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(0.45, 0.55, 4000)
    sd = np.array([[0.0], [0.02], [0.08]])
    first, second = (table(truth + sd * random.normal(size=(3, 4000))) for _ in range(2))
    found = measurement_noise(first, second.sample(frac=0.5, random_state=0))
    np.testing.assert_allclose(found["noise_sd"], sd[:, 0], atol=0.003)
    np.testing.assert_allclose(found["noise_share"], sd[:, 0] ** 2 / (truth.var() + sd[:, 0] ** 2), atol=0.02)
    np.testing.assert_allclose(found["shift"], 0.0, atol=0.01)
    assert noise_floor(found) == pytest.approx(np.sqrt(np.mean(sd**2)), abs=0.002)


def test_by_hand() -> None:
    first = pd.DataFrame(
        {"item_id": ["x", "y", "z"], "theory": "justice", "annotator": "a", "score": [0.1, 0.5, np.nan]}
    )
    second = first.assign(score=[0.3, 0.5, 0.9])
    found = measurement_noise(first, second)
    assert found["n"].tolist() == [2]
    assert found["noise_sd"][0] == pytest.approx(np.sqrt(0.5 * (0.04 + 0.0) / 2))
    assert found["shift"][0] == pytest.approx(0.1)
    assert found["noise_share"][0] == pytest.approx(0.01 / 0.04)
    constant = measurement_noise(first.assign(score=0.5), second.assign(score=0.5))
    assert constant["noise_sd"].tolist() == [0.0]
    assert constant["noise_share"].isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="score"), "repeats: missing column 'score'"),
        (lambda t: pd.concat([t, t.tail(1)]), "repeats: row 21: expected one row per"),
        (lambda t: t.assign(item_id=t["item_id"] + "?"), "repeats: no row names"),
    ],
)
def test_mistakes(change, message: str) -> None:
    annotations = table(draw(5, 0)[1])
    with pytest.raises(UserError, match=message):
        measurement_noise(annotations, change(annotations))


def test_noise_is_a_floor_of_sigma() -> None:
    _, scores = draw(2000, 0)
    free = TruncatedNormalEM().fit(matrix_of(scores))
    floored = TruncatedNormalEM(noise_sd={"a1": 0.2, "a2": 0.05}).fit(matrix_of(scores))
    sigma = floored.model_.parameters.sigma[:, 0]
    np.testing.assert_allclose(sigma[:, 1], 0.2)
    assert sigma[:, [0, 2, 3]].min() > SIGMA_MIN
    assert floored.parameters_["informativeness"][1] < free.parameters_["informativeness"][1]
    assert np.all(np.diff(floored.trace_) > -1e-9)
    none = TruncatedNormalEM(noise_sd={"a2": 0.05}).fit(matrix_of(scores))
    np.testing.assert_array_equal(none.gamma_, free.gamma_)  # a floor below sigma changes nothing
    with pytest.raises(UserError, match="noise_sd: annotator 'a0': expected a number from 0 to 1"):
        TruncatedNormalEM(noise_sd={"a0": float("nan")})


def test_a_confident_but_noisy_annotator_loses_its_certainty() -> None:
    """Its answers are two constants that follow a coin, and would be another coin's next time."""
    _, scores = draw(400, 0)
    coin = np.random.default_rng(1).random(400) < 0.5
    pool = np.vstack([scores, np.where(coin, 0.62, 0.58)])
    free = TruncatedNormalEM().fit(matrix_of(pool)).parameters_["informativeness"][4]
    floored = TruncatedNormalEM(noise_sd={"a4": 0.1}).fit(matrix_of(pool)).parameters_["informativeness"][4]
    assert floored < 0.2 * free + 1e-3


@pytest.mark.parametrize("sigma_min", [0.03, 0.1, 0.4, 1.0])
def test_fit_box_keeps_to_any_floor(sigma_min: float) -> None:
    random = np.random.default_rng(0)
    m1 = random.uniform(0.05, 0.95, 200)
    m2 = m1**2 + random.uniform(0.0, 1.0, 200) * (m1 - m1**2)
    mu, sigma = fit_box(m1, m2, sigma_min)
    assert ((mu >= 0.0) & (mu <= 1.0) & (sigma >= sigma_min) & (sigma <= 1.0)).all()
    inside = fit_box(m1, m2)[1] > sigma_min
    np.testing.assert_allclose(sigma[inside], fit_box(m1, m2)[1][inside], rtol=1e-9)
    np.testing.assert_allclose(sigma[~inside], sigma_min)
    assert fit_naive(m1, m2, sigma_min)[1].min() >= sigma_min
