"""What the aggregator learns from: questions with the agents' answers, the profile, and the answer a person wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from consilience.errors import UserError
from consilience.lm.prompts import encode_data
from consilience.theories import VALUE_NAMES
from consilience.values.context import ContextKind, build_context, with_question
from consilience.values.profile import Profile
from consilience.values.prompts import prompt
from consilience.values.questions import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that carries no loss."""

Answers = Mapping[str, Mapping[str, str | None]]
"""Question id to agent to answer."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question as the aggregator is taught it.

    Attributes:
        input_ids: prompt, answer and end of text.
        labels: the same, `IGNORED` over the prompt: the loss is on the answer alone.
    """

    input_ids: list[int]
    labels: list[int]


def by_question(answers: pa.Table) -> dict[str, dict[str, str | None]]:
    """An `answers` table by question and system."""
    found: dict[str, dict[str, str | None]] = {}
    for question, system, text in zip(
        *(answers.column(c).to_pylist() for c in ("question_id", "system", "text")), strict=True
    ):
        found.setdefault(question, {})[system] = text
    return found


def aggregator_prompt(
    tokeniser: "PreTrainedTokenizerBase",
    kind: ContextKind,
    question: str,
    profile: Profile,
    answers: Mapping[str, str | None],
    room: int | None,
) -> list[int]:
    """Token ids that the aggregator reads: context, then question, cut as `values.prompts` says.

    Raises:
        UserError: a blank question, an agent that the context needs and that was not asked, or too little room.
    """
    return prompt(tokeniser, with_question(build_context(kind, profile, answers), question), room)


def build_examples(
    tokeniser: "PreTrainedTokenizerBase",
    kind: ContextKind,
    questions: Sequence[Question],
    answers: Answers,
    end: int,
    room: int,
    answer_room: int,
) -> list[Example]:
    """Examples of the questions that have a reference; the others are left out.

    Args:
        end: id of the token that ends an answer.
        room: most tokens of an example.
        answer_room: most tokens of its reference, which is cut there, its end with it.

    Raises:
        UserError: no question has a reference, or see `aggregator_prompt`.
    """
    examples = []
    for question in questions:
        if question.reference is None:
            continue
        target = [*encode_data(tokeniser, question.reference.strip()), end][:answer_room]
        heard = answers.get(question.question_id, {})
        ids = aggregator_prompt(tokeniser, kind, question.text, question.profile, heard, room - len(target))
        examples.append(Example(ids + target, [IGNORED] * len(ids) + target))
    if not examples:
        raise UserError("questions: none with a reference; expected some, which the aggregator is to learn")
    return examples


def agents_wanted(kind: ContextKind, questions: Sequence[Question], agents: Sequence[str]) -> None:
    """Raise UserError unless there is an agent for every value that the contexts of `questions` need."""
    needed = set(VALUE_NAMES) if kind == "full" else {v.name for q in questions for v in q.profile.present}
    if missing := sorted(needed - set(agents)):
        raise UserError(f"agents: none for {', '.join(missing)}, which context '{kind}' needs")
