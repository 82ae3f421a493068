"""Annotators without a model: controls for robustness, never a stand-in for a model.

A draw depends on seed, dilemma and theory alone, so that order, batches and resuming never change a score.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from consilience.errors import UserError
from consilience.lm.annotators import SyntheticAnnotator
from consilience.lm.scorer import FAILED, OK, Scores
from consilience.table_schema import read_table
from consilience.tables import ANNOTATIONS, DILEMMAS
from consilience.theories import Theory

RECORDED = ("copycat", "inverted", "recorded")


class SyntheticScorer:
    """`scorer.Scorer` of one behaviour.

    - random01: 0 or 1 by a coin; uniform: anywhere in [0, 1); constant: `value` throughout.
    - recorded: what annotator `of` (default: the same name) said in the run folder `recording`; copycat: the same, said
      of another annotator; inverted: 1 minus that. A dilemma that is not in the recording is missing.

    Raises:
        UserError: the recording is not there, or holds no such annotator.
    """

    def __init__(self, config: SyntheticAnnotator) -> None:
        self._config = config
        self._recording = _read_recording(config) if config.behaviour in RECORDED else {}

    def score(self, dilemmas: Sequence[str], theories: Sequence[Theory]) -> Scores:
        """Judge every dilemma under every theory; see `scorer.Scorer`."""
        score = np.array(
            [[self._one(dilemma, theory) for theory in theories] for dilemma in dilemmas], dtype=np.float64
        )
        score = score.reshape(len(dilemmas), len(theories))
        status: npt.NDArray[np.object_] = np.where(np.isnan(score), FAILED, OK).astype(object)
        return Scores(score, np.full_like(score, np.nan), status)

    def _one(self, dilemma: str, theory: Theory) -> float:
        match self._config.behaviour:
            case "random01":
                return float(self._draw(dilemma, theory) < 0.5)
            case "uniform":
                return self._draw(dilemma, theory)
            case "constant":
                return self._config.value
            case "inverted":
                return 1.0 - self._recording.get((dilemma, theory.name), np.nan)
            case _:
                return self._recording.get((dilemma, theory.name), np.nan)

    def _draw(self, dilemma: str, theory: Theory) -> float:
        """A number in [0, 1) from a hash."""
        text = f"{self._config.seed}\0{self._config.annotator}\0{theory.name}\0{dilemma}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def _read_recording(config: SyntheticAnnotator) -> dict[tuple[str, str], float]:
    """(text, theory) -> score of the recorded annotator."""
    if config.recording is None:
        raise UserError(
            f"annotator '{config.annotator}': behaviour '{config.behaviour}' needs 'recording', a run folder"
        )
    name = config.of or config.annotator
    dilemmas = read_table(config.recording / "dilemmas.parquet", DILEMMAS)
    rows = read_table(config.recording / "annotations.parquet", ANNOTATIONS)
    rows = rows.filter(pc.equal(rows.column("annotator"), name))
    if rows.num_rows == 0:
        raise UserError(f"{config.recording / 'annotations.parquet'}: no annotator '{name}'")
    text = dict(zip(dilemmas.column("item_id").to_pylist(), dilemmas.column("text").to_pylist(), strict=True))
    columns = (rows.column(column).to_pylist() for column in ("item_id", "theory", "score"))
    return {
        (text[item], theory): score
        for item, theory, score in zip(*columns, strict=True)
        if item in text and score is not None
    }
