"""A chat completion read as a judgement: from its log-probabilities where there are any, else parsed strictly."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from consilience.lm.annotator_block import Elicitation
from consilience.lm.scorer import OK, REFUSED, UNPARSABLE

T = TypeVar("T")

_BEGINS_YES_NO = re.compile(r"\s*(yes|no)\b", re.IGNORECASE | re.ASCII)
_YES_NO = re.compile(r"\s*(yes|no)\s*\.?\s*", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"\s*([0-9]{1,2}(?:\.[0-9]+)?)\s*\.?\s*", re.ASCII)
_SCALE = {str(value): value for value in range(11)}
_TOLERANCE = 0.005
"""Largest error of a score read from first tokens, from not knowing whether a '1' begins '10'."""


def _or_none(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        return None


Lenient = Annotated[T | None, WrapValidator(_or_none)]
"""None where the server sends another shape: not worth a second payment."""


class Token(BaseModel):
    """A token and its natural log-probability."""

    token: str
    logprob: float = Field(allow_inf_nan=False)


class Position(Token):
    """The token chosen at one position, and the most likely ones there."""

    top_logprobs: list[Token] = []


class Logprobs(BaseModel):
    """Positions of the reply, in order."""

    content: list[Position]


class Message(BaseModel):
    """What the model said, or why it would not."""

    content: str | None = None
    refusal: str | None = None


class Choice(BaseModel):
    """One completion."""

    message: Message
    finish_reason: str | None = None
    logprobs: Lenient[Logprobs] = None


class Usage(BaseModel):
    """Tokens billed."""

    prompt_tokens: int = Field(ge=1)
    completion_tokens: int = Field(ge=1)


class Reply(BaseModel):
    """A chat completion: the fields of the body that are read or worth keeping."""

    choices: list[Choice] = Field(min_length=1)
    usage: Lenient[Usage] = None
    model: Lenient[str] = None
    system_fingerprint: Lenient[str] = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A score in [0, 1] and the mass on its answer tokens, NaN where there is none; see `scorer.Scores`."""

    score: float
    answer_mass: float
    status: str


def read_reply(reply: Reply, elicitation: Elicitation) -> Judgement:
    """The judgement in a reply to a question of that elicitation.

    yes_no: probability of the spellings of yes among those of yes and no, at the first token that is not blank, if
    the reply begins with one of the words. scale_0_10: expectation over the whole numbers at that token, divided by
    ten, if the reply is a whole number and the first token tells which. Without log-probabilities, or where they do
    not tell, the whole reply must be yes, no or a number from 0 to 10, with blanks and a full stop at most; a reply
    cut off where the answer might go on is not. All else is unparsable.
    """
    choice = reply.choices[0]
    if choice.message.refusal or choice.finish_reason == "content_filter":
        return Judgement(math.nan, math.nan, REFUSED)
    text = choice.message.content or ""
    whole = choice.finish_reason != "length" or text[-1:].isspace()
    positions = _answer_positions(choice)
    found = _yes_no(text, whole, positions) if elicitation == "yes_no" else _scale(text, whole, positions)
    return found or Judgement(math.nan, math.nan, UNPARSABLE)


def _yes_no(text: str, whole: bool, positions: Sequence[Position]) -> Judgement | None:
    if positions and _BEGINS_YES_NO.match(text) and _spelling(positions[0]) in ("yes", "no"):
        probabilities = _probabilities(positions[0])
        mass = probabilities["yes"] + probabilities["no"]
        if mass > 0:
            return Judgement(probabilities["yes"] / mass, min(1.0, mass), OK)
    if whole and (answer := _YES_NO.fullmatch(text)):
        return Judgement(float(answer[1].lower() == "yes"), math.nan, OK)
    return None


def _scale(text: str, whole: bool, positions: Sequence[Position]) -> Judgement | None:
    answer = _NUMBER.fullmatch(text)
    if not whole or answer is None or float(answer[1]) > 10:
        return None
    if positions and answer[1] in _SCALE and (found := _expectation(positions)):
        return found
    return Judgement(float(answer[1]) / 10, math.nan, OK)


def _expectation(positions: Sequence[Position]) -> Judgement | None:
    """Mean of the numbers at the first token, or None where it does not tell '1' from the beginning of '10'."""
    first = _spelling(positions[0])
    weights = {spelling: p for spelling, p in _probabilities(positions[0]).items() if spelling in _SCALE}
    mass = math.fsum(weights.values())
    if first not in _SCALE or mass == 0:
        return None
    one = weights.get("1", 0.0)
    if "10" not in weights and 0.9 * one > _TOLERANCE * mass:
        if first != "1" or len(positions) < 2:
            return None
        weights["10"] = one * min(1.0, _probabilities(positions[1])["0"])
        weights["1"] = one - weights["10"]
    mean = math.fsum(_SCALE[spelling] * p for spelling, p in weights.items()) / mass
    return Judgement(min(1.0, mean / 10), min(1.0, mass), OK)


def _answer_positions(choice: Choice) -> list[Position]:
    """Positions from the first token that is not blank; none where the server offers no alternatives there."""
    positions = choice.logprobs.content if choice.logprobs else []
    start = next((index for index, position in enumerate(positions) if _spelling(position)), len(positions))
    return positions[start:] if start < len(positions) and positions[start].top_logprobs else []


def _probabilities(position: Position) -> Mapping[str, float]:
    """Probability per spelling, added up over its variants; 0 where it is not among the most likely."""
    found: defaultdict[str, float] = defaultdict(float)
    for token in position.top_logprobs:
        found[_spelling(token)] += math.exp(min(0.0, token.logprob))
    return found


def _spelling(token: Token) -> str:
    """Case and blanks left out, with the marks that some servers leave in for a blank."""
    return token.token.strip(" \t\r\n\u2581\u0120").casefold()
