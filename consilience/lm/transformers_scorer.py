"""Scoring dilemmas with a language model in this process, each dilemma read once for all theories."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from consilience.lm.annotator_block import Elicitation
from consilience.lm.answers import find_answers
from consilience.lm.language_model import LanguageModel
from consilience.lm.packed_attention import Prompt
from consilience.lm.prompts import Prompts
from consilience.lm.scorer import FAILED, OK, Scores
from consilience.theories import Theory

if TYPE_CHECKING:
    from consilience.lm.vllm_model import VLLMModel

log = logging.getLogger(__name__)


class TransformersScorer:
    """`scorer.Scorer` for one persona and elicitation of a loaded model; several may share the model.

    A dilemma that is blank, or does not fit the model's window, is "failed": it is never cut.

    Args:
        model: see `language_model.load_model` and `vllm_model.load_vllm_model`.
        persona: who the model answers as, e.g. "a hospital nurse".
        elicitation: which question is asked.

    Raises:
        UserError: the tokeniser has no tokens for the answers.
    """

    def __init__(
        self, model: "LanguageModel | VLLMModel", persona: str | None = None, elicitation: Elicitation = "yes_no"
    ) -> None:
        self._model = model
        self._prompts = Prompts(model.tokeniser, elicitation, persona)
        self._answers = find_answers(self._prompts.continuation, elicitation, self._prompts.chat)

    def score(self, dilemmas: Sequence[str], theories: Sequence[Theory]) -> Scores:
        """Judge every dilemma under every theory."""
        suffixes = [self._suffix(theory) for theory in theories]
        prefixes = [self._prompts.prefix(dilemma) for dilemma in dilemmas]
        readable = [index for index, dilemma in enumerate(dilemmas) if dilemma.strip()]
        if suffixes and (window := self._model.window) is not None:
            room = window - max(map(len, suffixes))
            readable = [index for index in readable if len(prefixes[index]) <= room]
        score, mass = np.full((2, len(dilemmas), len(theories)), np.nan)
        if readable and suffixes:
            prompts = [Prompt(prefixes[index], suffixes) for index in readable]
            score[readable], mass[readable] = self._read(prompts, theories)
        if len(readable) < len(dilemmas):
            log.warning("%d dilemmas are blank or do not fit the model's window", len(dilemmas) - len(readable))
        missing = np.isnan(score)
        mass[missing] = np.nan
        return Scores(score, mass, np.where(missing, FAILED, OK).astype(object))

    def _suffix(self, theory: Theory) -> list[int]:
        return self._prompts.suffix(theory) + self._answers.ending

    def _read(
        self, prompts: Sequence[Prompt], theories: Sequence[Theory]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Scores and answer masses (n, t) of prompts with a suffix for each of `theories`."""
        log_probs = self._model.read(prompts, self._answers.tokens, self._answers.positions)
        return self._answers.score(log_probs)
