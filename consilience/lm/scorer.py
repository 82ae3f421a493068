"""The interface every annotator implements: dilemmas and theories in, scores and answer mass out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from consilience.theories import Theory

OK, REFUSED, UNPARSABLE, FAILED = "ok", "refused", "unparsable", "failed"
STATUSES = (OK, REFUSED, UNPARSABLE, FAILED)


@dataclass(frozen=True, slots=True)
class Scores:
    """Judgements of `n` dilemmas under `t` theories.

    Attributes:
        score: (n, t) float64 in [0, 1], 1 = acceptable; NaN = missing, exactly where `status` is not "ok".
        answer_mass: (n, t) float64 in [0, 1], the model's probability on the answer tokens before they are
            renormalised (design: a score is read, not generated); NaN where the annotator has no such thing.
        status: (n, t) object array of `STATUSES`.
        stopped: why this annotator asks nothing more (key refused, cost cap, server silent), or None.
    """

    score: npt.NDArray[np.float64]
    answer_mass: npt.NDArray[np.float64]
    status: npt.NDArray[np.object_]
    stopped: str | None = None


class Scorer(Protocol):
    """One annotator: a model under one persona and one elicitation, or a synthetic behaviour."""

    def score(self, dilemmas: Sequence[str], theories: Sequence[Theory]) -> Scores:
        """Judge every dilemma under every theory. A judgement that fails is missing, never a number."""
        ...
