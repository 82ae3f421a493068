"""The methods that an evaluation compares, and what each of them is asked for a question."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from consilience.theories import VALUES, Value
from consilience.values.aggregator_data import Answers
from consilience.values.answer_settings import BASE
from consilience.values.context import ContextKind, Data, Pieces, asked, build_context, with_question
from consilience.values.profile import Profile
from consilience.values.questions import Question
from consilience.values.requests import Request

FEW_SHOT, PROMPTED = "few_shot", "prompted"
OTHER_REFERENCE = "other_reference"
"""No method: the reference of another question, which says how near two texts come that have nothing in common."""

_MERGE = (
    "Advisers who each speak for one moral value have answered the question below. Write one answer of your own that "
    "keeps what is best in theirs.\n"
)

Shots = Mapping[str, Sequence[Question]]
"""Value to questions with a reference, shown as examples where a profile asks for it."""


def aggregator_name(context: ContextKind) -> str:
    """The system, and the adapter, that was tuned on a context."""
    return f"aggregator_{context}"


def base_name(context: ContextKind) -> str:
    """The system that is the untuned base reading a context."""
    return f"{BASE}_{context}"


def flipped_name(context: ContextKind, value: str) -> str:
    """The system that is an aggregator told a profile with one value flipped."""
    return f"{aggregator_name(context)}_flip_{value}"


def compared(agents: Sequence[str], contexts: Sequence[ContextKind]) -> list[str]:
    """All systems that answer every question, those with a context first."""
    tuned = [name(context) for name in (aggregator_name, base_name) for context in contexts]
    return [*tuned, PROMPTED, FEW_SHOT, BASE, *agents]


def flip(profile: Profile, value: Value) -> Profile:
    """`profile` with `value` fully asked for where it was not at all, else not at all."""
    place = VALUES.index(value)
    weights = list(profile.weights)
    weights[place] = 0.0 if weights[place] > 0 else 1.0
    return replace(profile, weights=tuple(weights))


def other_references(questions: Sequence[Question], situations: Sequence[str]) -> dict[str, str]:
    """For each question that has a reference, the next reference of another situation; none where all are of one.

    Args:
        situations: of the questions, in their order.
    """
    told = [(q, situation) for q, situation in zip(questions, situations, strict=True) if q.reference]
    if len({situation for _, situation in told}) < 2:
        return {}
    found = {}
    for place, (question, situation) in enumerate(told):
        later = (told[(place + step) % len(told)] for step in range(1, len(told)))
        found[question.question_id] = next(q.reference or "" for q, theirs in later if theirs != situation)
    return found


def draw_shots(train: Sequence[Question], most: int, seed: int) -> dict[str, list[Question]]:
    """Up to `most` questions per value whose profile asks for it and that have a reference, drawn at random."""
    random = np.random.default_rng(seed)
    shots = {}
    for value in VALUES:
        able = [question for question in train if question.reference and value in question.profile.present]
        chosen = random.choice(len(able), min(most, len(able)), replace=False)
        shots[value.name] = [able[place] for place in sorted(chosen.tolist())]
    return shots


def alone(questions: Sequence[Question], names: Sequence[str]) -> list[Request]:
    """Agents (or the base), each told the question and nothing else."""
    return [
        Request(question.question_id, name, name, (asked(question.text),)) for name in names for question in questions
    ]


def in_context(
    questions: Sequence[Question], answers: Answers, contexts: Sequence[ContextKind], shots: Shots
) -> list[Request]:
    """Aggregators, the base in their place, the base told to merge the agents' answers, and few-shot prompting.

    Args:
        answers: of the agents alone.
    """
    requests = []
    for question in questions:
        name, profile, heard = question.question_id, question.profile, answers[question.question_id]
        for context in contexts:
            pieces = with_question(build_context(context, profile, heard), question.text)
            tuned = aggregator_name(context)
            requests += [Request(name, tuned, tuned, pieces), Request(name, base_name(context), BASE, pieces)]
        requests.append(Request(name, PROMPTED, BASE, _merge(question, heard)))
        requests.append(Request(name, FEW_SHOT, BASE, _few_shot(question, shots)))
    return requests


def with_flips(
    questions: Sequence[Question], answers: Answers, contexts: Sequence[ContextKind], agents: Sequence[str]
) -> list[Request]:
    """Aggregators told profiles in which one value is flipped, for every value that has an agent."""
    return [
        Request(
            question.question_id,
            flipped_name(context, value.name),
            aggregator_name(context),
            with_question(
                build_context(context, flip(question.profile, value), answers[question.question_id]), question.text
            ),
        )
        for context in contexts
        for value in VALUES
        if value.name in agents
        for question in questions
    ]


def _merge(question: Question, heard: Mapping[str, str | None]) -> Pieces:
    """Without a value asked for there is nobody to hear: the question alone."""
    if not question.profile.present:
        return (asked(question.text),)
    context = with_question(build_context("dynamic", question.profile, heard), question.text)
    return (_MERGE, *context)


def _few_shot(question: Question, shots: Shots) -> Pieces:
    """Definitions of the values that are asked for, then examples under them, each once; else the question alone."""
    present = question.profile.present
    if not present:
        return (asked(question.text),)
    definitions = [f"- {value.name.capitalize()}: {value.definition}." for value in present]
    pieces: list[str | Data] = ["\n".join(["Moral values:", *definitions])]
    for shot in dict.fromkeys(shot for value in present for shot in shots[value.name]):
        pieces += ["\nQuestion:", Data(shot.text), "\nAnswer:", Data(shot.reference or "")]
    return (*pieces, "\nQuestion:", asked(question.text))
