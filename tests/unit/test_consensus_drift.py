"""The drift alarm: silent on stationary annotators at the stated rate, and naming the one that has changed."""

import numpy as np
import pytest
from consensus_simulation import draw, matrix_of
from numpy.typing import NDArray

from consilience.consensus.drift import drift_alarm
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.incremental import with_past
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.model import ConsensusModel
from consilience.consensus.posterior import Shard
from consilience.errors import UserError

Floats = NDArray[np.float64]


def by_degree(tasks: int, seed: int, annotators: int = 6) -> Floats:
    """(M, N) scores the EM's model does not fit: acceptability by degree, errors partly shared."""
    random = np.random.default_rng(seed)
    truth = random.beta(0.8, 0.8, tasks)
    error = np.sqrt(0.7) * random.normal(size=(annotators, tasks)) + np.sqrt(0.3) * random.normal(size=tasks)
    gain, noise = random.uniform(0.5, 1.1, (annotators, 1)), random.uniform(0.1, 0.25, (annotators, 1))
    return np.clip(0.5 + gain * (truth - 0.5) + noise * error, 0.0, 1.0)


def fitted(matrix: ScoreMatrix) -> ConsensusModel:
    return with_past(TruncatedNormalEM().fit(matrix).model_, Shard(matrix))


@pytest.mark.parametrize(("old", "new"), [(200, 50), (800, 400)])
def test_false_alarms_keep_to_the_level(old: int, new: int) -> None:
    alarms = 0
    for seed in range(100):
        scores = draw(old + new, seed)[1] if seed % 2 else by_degree(old + new, seed)
        scores[1, ::3] = np.nan
        table = drift_alarm(fitted(matrix_of(scores[:, :old])), matrix_of(scores[:, old:]), level=0.05)
        alarms += bool(table["alarm"].any())
    assert alarms <= 12  # of 100 at 5 %: exceeded with probability 0.1 %


@pytest.mark.parametrize("change", ["shifted", "inverted", "random", "copied from another"])
@pytest.mark.parametrize("simulate", [lambda tasks, seed: draw(tasks, seed)[1], by_degree])
def test_the_annotator_that_changed_is_named(change: str, simulate) -> None:
    named = []
    for seed in range(10):
        scores = simulate(1000, seed)
        new = scores[:, 700:]
        new[0] = {
            "shifted": np.clip(new[0] + 0.15, 0.0, 1.0),
            "inverted": 1.0 - new[0],
            "random": np.random.default_rng(seed).random(300),
            "copied from another": new[1] ** 2,
        }[change]
        table = drift_alarm(fitted(matrix_of(scores[:, :700])), matrix_of(new))
        assert table["p"].is_monotonic_increasing
        named.append(table[table["alarm"]]["annotator"].tolist())
    assert sum("a0" in names for names in named) >= 9
    assert sum(names == ["a0"] for names in named) >= 8


def test_a_somewhat_other_mix_of_items_is_no_drift() -> None:
    alarms = 0
    for seed in range(20):
        model = fitted(matrix_of(draw(1000, seed, prior=0.45)[1]))
        alarms += bool(drift_alarm(model, matrix_of(draw(300, 1000 + seed, prior=0.55)[1]))["alarm"].any())
    assert alarms <= 1


def test_other_annotators_and_theories_are_left_out() -> None:
    scores = draw(400, 0)[1]
    model = fitted(matrix_of(scores[:, :300]))
    new = ScoreMatrix.from_arrays(
        np.vstack([scores[:, 300:], scores[:1, 300:]]),
        ["a0", "a1", "a2", "a3", "new"],
        np.arange(100),
        ["justice"] * 100,
    )
    expected = drift_alarm(model, matrix_of(scores[:, 300:]))
    assert drift_alarm(model, new).equals(expected)
    elsewhere = drift_alarm(model, matrix_of(scores[:, 300:], ["virtue"] * 100))
    assert (elsewhere["n"] == 0).all()
    assert (elsewhere["p"] == 1.0).all()
    assert not elsewhere["alarm"].any()
    with pytest.raises(UserError, match="without its past"):
        drift_alarm(TruncatedNormalEM().fit(matrix_of(scores)).model_, new)


def test_binary_and_constant_annotators() -> None:
    random = np.random.default_rng(0)
    label, scores = draw(900, 0)
    scores = np.vstack([scores, (random.random(900) < 0.2 + 0.6 * label) * 1.0, np.full(900, 0.5)])
    model = fitted(matrix_of(scores[:, :600]))
    assert not drift_alarm(model, matrix_of(scores[:, 600:]))["alarm"].any()
    scores[4, 600:] = 1.0 - scores[4, 600:]
    table = drift_alarm(model, matrix_of(scores[:, 600:]))
    assert table[table["alarm"]]["annotator"].tolist() == ["a4"]
    assert table.set_index("annotator")["p"]["a5"] == 1.0
