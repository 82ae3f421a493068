"""Scoring with a realigned model: by its head under the theories it was realigned for, as ever under the others."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from consilience.errors import UserError
from consilience.lm.annotators import RealignedAnnotator
from consilience.lm.language_model import LanguageModel, load_model
from consilience.lm.packed_attention import Prompt
from consilience.lm.sources import ModelFiles, open_source
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.realign.artefact import Artefact
from consilience.realign.objective import Head
from consilience.realign.theory_tokens import find_word
from consilience.theories import Theory, pick_theories


class RealignedScorer(TransformersScorer):
    """`lm.scorer.Scorer` of a model with theory tokens on it; each dilemma is read once for all theories.

    A theory with tokens has its own in the prompt, and its score is the head's; it has no answer mass. The other
    theories' prompts and scores are those of the raw model.

    Args:
        model: see `lm.language_model.load_model`; other scorers may share it.
        files: what it was loaded from.
        artefacts: theory tokens trained on it, at most one for a theory.

    Raises:
        UserError: tokens of another model, persona or elicitation, or two for one theory.
    """

    def __init__(self, model: LanguageModel, files: ModelFiles, artefacts: Sequence[Artefact]) -> None:
        about = artefacts[0].about
        super().__init__(model, about.persona, about.elicitation)
        self._realigned = model
        self._heads: dict[str, Head] = {}
        self._suffixes: dict[str, list[int]] = {}
        for artefact in artefacts:
            name = artefact.about.theory
            if name in self._heads:
                raise UserError(f"theory tokens: two for {name}; expected at most one for a theory")
            if (artefact.about.persona, artefact.about.elicitation) != (about.persona, about.elicitation):
                raise UserError(f"theory tokens for {name} and {about.theory}: of different personas or elicitations")
            (theory,) = pick_theories([name])
            word = find_word(model.tokeniser, self._prompts, theory)
            self._suffixes[name] = word.with_tokens(artefact.apply(model, files).ids)
            self._heads[name] = artefact.head.to(model.model.device)

    def _suffix(self, theory: Theory) -> list[int]:
        return self._suffixes.get(theory.name) or super()._suffix(theory)

    def _read(
        self, prompts: Sequence[Prompt], theories: Sequence[Theory]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        answers = self._answers
        log_probs, states = self._realigned.read_with_states(prompts, answers.tokens, answers.positions)
        score, mass = answers.score(log_probs)
        for column, theory in enumerate(theories):
            if head := self._heads.get(theory.name):
                with torch.inference_mode():
                    score[:, column] = head(states[:, column]).cpu().double().numpy()
                mass[:, column] = np.nan
        return score, mass


def open_realigned(config: RealignedAnnotator) -> RealignedScorer:
    """The scorer of a config block.

    Raises:
        UserError: its theory tokens are missing, edited, or were trained on another model, persona or elicitation.
    """
    artefacts = [Artefact.load(path) for path in config.artefacts]
    for path, artefact in zip(config.artefacts, artefacts, strict=True):
        about = artefact.about
        if (about.persona, about.elicitation) != (config.persona, config.elicitation):
            raise UserError(
                f"annotator '{config.annotator}': {path} was trained with persona {about.persona!r} and elicitation "
                f"{about.elicitation}; expected the same here"
            )
    model = load_model(config.source, config.revision, config.dtype)
    return RealignedScorer(model, open_source(config.source, config.revision), artefacts)
