"""Which tokens answer a question, and the score that their probabilities make.

A score is the expectation over the answers, renormalised over them; `answer_mass` is their probability before that.
All spellings of an answer that are one token are summed, so that a model is not judged by its favourite spelling.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consilience.errors import UserError
from consilience.lm.annotator_block import Elicitation

_WORDS = {"yes": 1.0, "Yes": 1.0, "YES": 1.0, "no": 0.0, "No": 0.0, "NO": 0.0}


@dataclass(frozen=True, slots=True)
class Answers:
    """Answer tokens of one elicitation for one tokeniser.

    Attributes:
        values: acceptability in [0, 1] by answer token.
        lead: tokens between the prompt and the answer.
        ten: where "10" is written in two tokens, these; else None. It is then told from "1" at a second position:
            the prompt goes on with the first of them.
    """

    values: dict[int, float]
    lead: tuple[int, ...] = ()
    ten: tuple[int, int] | None = None

    @property
    def ending(self) -> list[int]:
        """Tokens to append to a prompt."""
        return [*self.lead, *(self.ten[:1] if self.ten else ())]

    @property
    def positions(self) -> int:
        """How many positions at the end of prompt and ending are read: 1, or 2 where "10" takes two tokens."""
        return 2 if self.ten else 1

    @property
    def tokens(self) -> list[int]:
        """Tokens whose log-probabilities are read at each of these positions."""
        return [*self.values, *(self.ten[1:] if self.ten else ())]

    def score(self, log_probs: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Scores and answer masses, each (...,) in [0, 1], from log-probabilities (..., positions, tokens)."""
        values = np.array(list(self.values.values()))
        probabilities = np.exp(log_probs[..., 0, : len(values)])
        mass = probabilities.sum(axis=-1)
        expected = probabilities @ values
        if self.ten:
            one = list(self.values).index(self.ten[0])
            tens = probabilities[..., one] * np.exp(log_probs[..., 1, -1])
            expected = expected + tens * (1.0 - values[one])
        with np.errstate(invalid="ignore"):
            return np.clip(expected / mass, 0.0, 1.0), np.minimum(mass, 1.0)


def find_answers(encode: Callable[[str], list[int]], elicitation: Elicitation, chat: bool) -> Answers:
    """The answer tokens of a tokeniser.

    Args:
        encode: token ids of a text in the middle of a prompt.
        elicitation: which question is asked.
        chat: whether the answer begins a turn of its own; otherwise it follows a colon, and a space.

    Raises:
        UserError: the tokeniser has no single token for an answer.
    """
    if elicitation == "yes_no":
        values = {
            tokens[0]: value
            for word, value in _WORDS.items()
            for text in (word, f" {word}")
            if len(tokens := encode(text)) == 1
        }
        if len(set(values.values())) < 2:
            raise UserError("the model's tokeniser has no single token for yes or no; elicitation yes_no needs them")
        return Answers(values)
    bare, spaced = ([encode(f"{space}{number}") for number in range(11)] for space in ("", " "))
    if any(len(tokens) != 1 for tokens in bare[:10]):
        raise UserError("the model's tokeniser has no single tokens for 0 to 9; elicitation scale_0_10 needs them")
    values = {tokens[0]: number / 10 for number, tokens in enumerate(bare) if len(tokens) == 1}
    if len(values) == 11 and all(len(tokens) == 1 for tokens in spaced):
        values |= {tokens[0]: number / 10 for number, tokens in enumerate(spaced)}
    space = spaced[0][:-1]
    lead = space if not chat and spaced == [space + tokens for tokens in bare] else []
    if len(values) >= 11:
        return Answers(values, tuple(lead))
    if bare[10] != bare[1] + bare[0]:
        raise UserError("the model's tokeniser writes 10 in neither one token nor two; elicitation yes_no does not ask")
    return Answers(values, tuple(lead), (bare[1][0], bare[0][0]))
