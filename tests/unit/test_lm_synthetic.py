"""Annotators without a model: draws that depend on dilemma and theory alone, and recordings replayed."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilience.errors import UserError
from consilience.lm.annotators import SyntheticAnnotator
from consilience.lm.scorer import FAILED, OK
from consilience.lm.synthetic import SyntheticScorer
from consilience.table_schema import write_table
from consilience.tables import ANNOTATIONS, DILEMMAS
from consilience.theories import THEORIES, pick_theories

TEXTS = [f"I told my sister that {n} guests were coming." for n in range(200)]
RECORDED = [0.25, None, 0.75]


def scorer(behaviour: str, **more: Any) -> SyntheticScorer:
    return SyntheticScorer(
        SyntheticAnnotator.model_validate({"annotator": "a", "kind": "synthetic", "behaviour": behaviour, **more})
    )


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A run folder in which annotator 'a' judged three dilemmas under virtue, the second of them without success."""
    dilemmas = [{"item_id": str(n), "text": TEXTS[n], "source": "test"} for n in range(3)]
    judgements = [
        {
            "item_id": str(n),
            "theory": "virtue",
            "annotator": "a",
            "score": score,
            "status": "refused" if score is None else OK,
            "fingerprint": str(n),
        }
        for n, score in enumerate(RECORDED)
    ]
    for name, rows, schema in [("dilemmas", dilemmas, DILEMMAS), ("annotations", judgements, ANNOTATIONS)]:
        write_table(pa.Table.from_pylist(rows, schema=schema.arrow), tmp_path / f"{name}.parquet", schema)
    return tmp_path


def test_draws_have_their_distributions() -> None:
    coin, even = scorer("random01").score(TEXTS, THEORIES), scorer("uniform").score(TEXTS, THEORIES)
    assert set(coin.score.ravel()) == {0.0, 1.0}
    assert abs(coin.score.mean() - 0.5) < 0.06
    assert ((even.score >= 0) & (even.score < 1)).all()
    assert abs(even.score.mean() - 0.5) < 0.04
    assert abs(even.score.std() - 12**-0.5) < 0.02
    assert (scorer("constant", value=0.3).score(TEXTS, THEORIES).score == 0.3).all()
    assert (even.status == OK).all()
    assert np.isnan(even.answer_mass).all()


@given(order=st.permutations(range(6)), count=st.integers(0, 6))
def test_order_and_selection_change_no_draw(order: list[int], count: int) -> None:
    uniform = scorer("uniform")
    whole = uniform.score(TEXTS[:6], THEORIES).score
    some = uniform.score([TEXTS[n] for n in order[:count]], THEORIES[::-1]).score
    np.testing.assert_array_equal(some, whole[order[:count], ::-1].reshape(count, len(THEORIES)))


def test_seeds_names_and_theories_differ() -> None:
    draws = [scorer("uniform", **more).score(TEXTS, THEORIES).score for more in ({}, {"seed": 1}, {"annotator": "b"})]
    columns = np.column_stack(draws)
    correlations = np.corrcoef(columns.T)[~np.eye(columns.shape[1], dtype=bool)]
    assert np.abs(correlations).max() < 0.25


@pytest.mark.parametrize("behaviour", ["recorded", "copycat", "inverted"])
def test_a_recording_is_replayed(recording: Path, behaviour: str) -> None:
    name = "a" if behaviour == "recorded" else "other"
    replay = scorer(behaviour, annotator=name, recording=recording, of="a")
    found = replay.score([*TEXTS[:3], "Never seen."], pick_theories(["virtue", "justice"]))
    expected = np.array([0.25, np.nan, 0.75, np.nan])
    np.testing.assert_array_equal(found.score[:, 0], 1 - expected if behaviour == "inverted" else expected)
    assert (found.status[:, 1] == FAILED).all()
    assert (np.isnan(found.score) == (found.status == FAILED)).all()


def test_a_recording_that_is_not_there_is_a_mistake(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="annotator 'a': behaviour 'copycat' needs 'recording'"):
        scorer("copycat")
    with pytest.raises(UserError, match="no annotator 'nobody'"):
        scorer("copycat", recording=recording, of="nobody")
    with pytest.raises(UserError, match="absent"):
        scorer("recorded", recording=tmp_path / "absent")
