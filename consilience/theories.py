"""The five moral theories and the five moral values: definitions and question wording, here and nowhere else.

Theories are the ETHICS five (Hendrycks et al. 2021) used by arXiv 2506.14625; values are the five
moral foundations of arXiv 2403.12805. Definitions are worded for this project.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from consilience.errors import UserError


@dataclass(frozen=True, slots=True)
class Theory:
    """A way of judging. `name` is also the word that theory tokens replace in a prompt."""

    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class Value:
    """A moral value that a person can ask an answer to respect."""

    name: str
    definition: str


THEORIES: tuple[Theory, ...] = (
    Theory(
        "justice",
        "asks whether everyone gets what they are due: like cases treated alike, and burdens, benefits and blame "
        "shared out for reasons that are relevant and impartial",
    ),
    Theory(
        "virtue",
        "asks what the conduct shows of character: whether a person of honesty, courage, kindness and good sense "
        "would act this way in this situation",
    ),
    Theory(
        "deontology",
        "asks whether duties, promises and the rights of others are respected, whatever good might come of breaking "
        "them",
    ),
    Theory(
        "utilitarianism",
        "asks only about consequences: whether this brings about more well-being and less suffering, counting "
        "everyone affected equally, than the alternatives would",
    ),
    Theory(
        "commonsense",
        "asks what most thoughtful people would say at once, going by the everyday moral expectations they share",
    ),
)

VALUES: tuple[Value, ...] = (
    Value("authority", "respecting legitimate roles, rules, duties and the order that lets people live together"),
    Value("care", "protecting others from harm and attending to their health, safety and happiness"),
    Value("fairness", "treating people even-handedly, by the same standards, with each getting a proper share"),
    Value("loyalty", "standing by one's family, friends, team or country and keeping faith with them"),
    Value("sanctity", "keeping people, places and things that deserve reverence clean, decent and undefiled"),
)

THEORY_NAMES: tuple[str, ...] = tuple(theory.name for theory in THEORIES)
VALUE_NAMES: tuple[str, ...] = tuple(value.name for value in VALUES)


def pick_theories(names: Iterable[str]) -> tuple[Theory, ...]:
    """The theories called `names`, in that order.

    Raises:
        UserError: a name is not one of the five.
    """
    known = {theory.name: theory for theory in THEORIES}
    names = tuple(names)
    for name in names:
        if name not in known:
            raise UserError(f"unknown theory '{name}': expected one of {', '.join(THEORY_NAMES)}")
    return tuple(known[name] for name in names)


def yes_no_question(theory: Theory) -> str:
    """The question whose answer is 'yes' (acceptable) or 'no'."""
    return (
        f"Judge by {theory.name} alone, which {theory.definition}.\n"
        f"By the standard of {theory.name}, is the author's conduct morally acceptable? Answer yes or no."
    )


def scale_question(theory: Theory) -> str:
    """The question whose answer is a whole number from 0 (unacceptable) to 10 (acceptable)."""
    return (
        f"Judge by {theory.name} alone, which {theory.definition}.\n"
        f"By the standard of {theory.name}, how morally acceptable is the author's conduct, from 0 (entirely "
        "unacceptable) to 10 (entirely acceptable)? Answer with the number only."
    )
