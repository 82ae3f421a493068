"""A fitted consensus saved, loaded and used on new items."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from consensus_simulation import draw, matrix_of

from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.model import ConsensusModel
from consilience.errors import UserError

THEORIES = ["justice", "virtue"] * 500


@pytest.fixture(params=[("global", "pooled"), ("per_theory", "pooled"), (0.4, "per_theory")])
def em(request) -> TruncatedNormalEM:
    prior, parameters = request.param
    _, scores = draw(1_000, seed=0)
    scores[1, :100] = np.nan
    scores[:, 5] = np.nan
    return TruncatedNormalEM(prior=prior, parameters=parameters).fit(matrix_of(scores, THEORIES))


@pytest.fixture
def saved(em: TruncatedNormalEM, tmp_path: Path) -> Path:
    path = tmp_path / "consensus_model.json"
    em.model_.save(path)
    return path


def long(em: TruncatedNormalEM) -> pd.DataFrame:
    _, scores = draw(1_000, seed=0)
    scores[1, :100] = np.nan
    scores[:, 5] = np.nan
    matrix = matrix_of(scores, THEORIES)
    frame = matrix.task_frame(**dict(zip(matrix.annotators, matrix.scores, strict=True)))
    return frame.melt(["item_id", "theory"], var_name="annotator", value_name="score")


def test_save_load_predict_equals_gamma(em: TruncatedNormalEM, saved: Path) -> None:
    model = ConsensusModel.load(saved)
    predicted = model.predict(long(em))
    expected = em.consensus_.sort_values(["theory", "item_id"], ignore_index=True)
    pd.testing.assert_frame_equal(predicted, expected, rtol=1e-12)
    pd.testing.assert_frame_equal(model.reliability(), em.parameters_)
    assert model.settings == em.model_.settings
    np.testing.assert_array_equal(model.statistics.class1, em.model_.statistics.class1)


def test_predict_on_a_matrix_is_exact(em: TruncatedNormalEM, saved: Path) -> None:
    _, scores = draw(1_000, seed=0)
    scores[1, :100] = np.nan
    scores[:, 5] = np.nan
    predicted = ConsensusModel.load(saved).predict(matrix_of(scores, THEORIES))
    np.testing.assert_array_equal(predicted["consensus"], em.gamma_)


def test_predict_from_some_of_the_annotators_under_one_theory(em: TruncatedNormalEM) -> None:
    frame = long(em).query("annotator != 'a2' and theory == 'virtue'")
    predicted = em.predict(frame)
    joint = predicted.merge(em.consensus_, on=["item_id", "theory"]).dropna()
    assert len(joint) == 500 - predicted["consensus"].isna().sum()
    assert np.mean((joint["consensus_x"] > 0.5) == (joint["consensus_y"] > 0.5)) > 0.85


def test_predict_refuses_strangers(em: TruncatedNormalEM) -> None:
    frame = long(em).replace({"annotator": {"a2": "newcomer"}})
    with pytest.raises(UserError, match="unknown annotator 'newcomer'"):
        em.predict(frame)
    frame = long(em).replace({"theory": {"virtue": "commonsense"}})
    if em.prior == "global" and em.parameters == "pooled":
        assert em.predict(frame)["consensus"].notna().sum() == 999
    else:
        with pytest.raises(UserError, match="unknown theory 'commonsense': this consensus was fitted on justice"):
            em.predict(frame)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "not JSON"),
        ("{}", "missing key 'format'"),
        ('{"format": "something else"}', "key 'format'"),
        ("[1]", "consensus_model.json: "),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "consensus_model.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        ConsensusModel.load(path)
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_refused(saved: Path) -> None:
    raw = json.loads(saved.read_text(encoding="utf-8"))
    raw["parameters"]["mu"][1][0].pop()
    saved.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(UserError, match="key 'mu': expected numbers in the shape"):
        ConsensusModel.load(saved)
    with pytest.raises(UserError, match="no such file"):
        ConsensusModel.load(saved.with_name("other.json"))
