"""From annotators' scores to verdicts, by a saved consensus: weighed, calibrated, or withheld with a reason."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.model import ConsensusModel
from serve_app.config import Limits
from serve_app.schemas import Judgement, Verdict

Scores = Mapping[str, Mapping[str, tuple[float, float, str]]]
"""Annotator to theory to score (NaN = missing), answer mass and status."""

_NOISE = 1


def weigh(model: ConsensusModel, theories: Sequence[str], scores: Scores, limits: Limits) -> list[Verdict]:
    """A verdict for each of `theories`, from whichever of the model's annotators scored.

    A verdict is withheld (`abstain`) where fewer than `limits.min_witnesses` scored, where the pool was too weak for a
    dependable consensus when the model was fitted, or where those that carry signal (all, if the model does not tell
    who does) spread by more than `limits.max_split`.

    Raises:
        UserError: a theory that the consensus was not fitted on, if it treats theories apart.
    """
    names = list(model.annotators)
    table = np.full((len(names), len(theories)), np.nan)
    for row, name in enumerate(names):
        for column, theory in enumerate(theories):
            table[row, column] = scores.get(name, {}).get(theory, (np.nan, np.nan, ""))[0]
    matrix = ScoreMatrix.from_arrays(table, names, ["dilemma"] * len(theories), theories)
    fitted = model.predict(matrix).set_index("theory")["consensus"]
    calibrated = _calibrated(model, matrix)
    heard = _carry_signal(model)
    weak = model.calibrated.weak if model.calibrated is not None else ()
    verdicts = []
    for column, theory in enumerate(theories):
        values = calibrated.get(theory, {})
        count = int((~np.isnan(table[:, column])).sum())
        split = _spread(table[heard, column])
        reason = _why_not(count, split, weak, limits)
        verdicts.append(
            Verdict(
                theory=theory,
                consensus=_number(fitted[theory]),
                calibrated=values.get("consensus"),
                sd=values.get("sd"),
                ci_low=values.get("ci_low"),
                ci_high=values.get("ci_high"),
                n_annotators=count,
                split=split,
                abstain=reason is not None,
                reason=reason,
                annotators=_judgements(names, scores, theory, values.get("consensus")),
            )
        )
    return verdicts


def reliability(model: ConsensusModel) -> list[dict[str, Any]]:
    """Rows of the `reliability` table, missing numbers as None, with each annotator's role where that is known."""
    rows = []
    for row in model.reliability().to_dict("records"):
        shown = {str(key): _number(value) if isinstance(value, float) else value for key, value in row.items()}
        if model.calibrated is not None:
            place = model.calibrated.annotators.index(row["annotator"])
            shown["role"] = ("genuine", "noise", "inverted")[int(model.calibrated.role[:, place].argmax())]
        rows.append(shown)
    return rows


def _calibrated(model: ConsensusModel, matrix: ScoreMatrix) -> dict[str, dict[str, float | None]]:
    """Theory to consensus, sd, ci_low, ci_high; empty where the model has no calibrated consensus."""
    if model.calibrated is None:
        return {}
    found = model.calibrated.predict(matrix)
    keys = ("consensus", "sd", "ci_low", "ci_high")
    return {
        theory: {key: _number(getattr(found, key)[place.start]) for key in keys}
        for theory, place in matrix.theory_slices.items()
    }


def _carry_signal(model: ConsensusModel) -> NDArray[np.bool_]:
    if model.calibrated is None:
        return np.ones(len(model.annotators), dtype=np.bool_)
    noise = dict(zip(model.calibrated.annotators, model.calibrated.role[_NOISE] > 0.5, strict=True))
    return np.array([not noise[name] for name in model.annotators])


def _why_not(count: int, split: float | None, weak: Sequence[str], limits: Limits) -> str | None:
    if count < limits.min_witnesses:
        return f"{count} annotators have a score; {limits.min_witnesses} are needed"
    if weak:
        return f"the pool has no dependable consensus: {weak[0]}"
    if split is not None and split > limits.max_split:
        return f"the witnesses split: their scores spread by {split:.2f}, more than {limits.max_split:.2f}"
    return None


def _judgements(names: Sequence[str], scores: Scores, theory: str, consensus: float | None) -> list[Judgement]:
    found = []
    for name in names:
        score, mass, status = scores.get(name, {}).get(theory, (math.nan, math.nan, "missing"))
        opposed = consensus is not None and not math.isnan(score) and (score - 0.5) * (consensus - 0.5) < 0
        found.append(
            Judgement(annotator=name, score=_number(score), status=status, answer_mass=_number(mass), disagrees=opposed)
        )
    return found


def _spread(scores: NDArray[np.float64]) -> float | None:
    known = scores[~np.isnan(scores)]
    return float(known.std()) if len(known) > 1 else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
