"""What the aggregator is told besides the question: value definitions, the profile and the agents' answers.

Two contexts (arXiv 2403.12805, Fig. 3; the exact wording is not published and is this project's own):

- `full`: all definitions, the whole profile and all agents' answers, whatever the profile.
- `dynamic`: definitions and answers of the values that the profile asks for, and nothing of the others; an all-zero
  profile gives "No context provided". Beyond the paper, whose profiles are binary, a profile with degrees is told too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from consilience.errors import UserError
from consilience.theories import VALUES, Value
from consilience.values.profile import Profile

ContextKind = Literal["full", "dynamic"]

NO_CONTEXT = "No context provided"
NO_ANSWER = "(no answer)"


@dataclass(frozen=True, slots=True)
class Data:
    """Text that others wrote, and so no instruction. It is shown on one line, which keeps labels the project's own."""

    text: str

    @property
    def line(self) -> str:
        return " ".join(self.text.split())


Pieces = tuple[str | Data, ...]
"""A text as the words around data and the data, in order."""


def wanted(kind: ContextKind, profile: Profile) -> tuple[Value, ...]:
    """The values whose agents a context needs to hear."""
    return VALUES if kind == "full" else profile.present


def build_context(kind: ContextKind, profile: Profile, answers: Mapping[str, str | None]) -> Pieces:
    """The context of one question.

    Args:
        answers: each wanted value's name to its agent's answer; null or blank: the agent gave none, which is said.

    Raises:
        UserError: a wanted value has no entry.
    """
    values = wanted(kind, profile)
    if not values:
        return (NO_CONTEXT,)
    for value in values:
        if value.name not in answers:
            raise UserError(f"answers: none of the agent for '{value.name}', which context '{kind}' needs")
    head = ["Moral values:", *(f"- {value.name.capitalize()}: {value.definition}." for value in values)]
    if kind == "full" or not profile.binary:
        head.append("Moral profile: " + ", ".join(f"{value.name} {profile.degree(value)}" for value in values) + ".")
    pieces: list[str | Data] = ["\n".join([*head, "Responses:"])]
    for value in values:
        pieces += [f"\n{value.name}:", Data((answers[value.name] or "").strip() or NO_ANSWER)]
    return tuple(pieces)


def with_question(context: Pieces, question: str) -> Pieces:
    """What the aggregator reads: the context, then the question.

    Raises:
        UserError: the question is blank.
    """
    return _joined((*context, "\nQuestion:", asked(question)))


def asked(question: str) -> Data:
    """A question as data.

    Raises:
        UserError: it is blank.
    """
    if not question.strip():
        raise UserError("question: empty; expected text")
    return Data(question)


def shown(pieces: Pieces) -> str:
    """`pieces` as a person reads them."""
    return "".join(f" {piece.line}" if isinstance(piece, Data) else piece for piece in pieces)


def _joined(pieces: Pieces) -> Pieces:
    """Words that follow words made one piece."""
    joined: list[str | Data] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, str) and isinstance(last, str):
            joined[-1] = last + piece
        else:
            joined.append(piece)
    return tuple(joined)
