"""A moral profile: how much a person wants each of the five values respected, 0 to 1."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from consilience.errors import UserError
from consilience.theories import VALUE_NAMES, VALUES, Value

_DEGREES = ((0.0, "not at all"), (1 / 3, "a little"), (2 / 3, "moderately"), (math.nextafter(1, 0), "strongly"))


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile vector c of arXiv 2403.12805, binary there, relaxed to [0, 1].

    Attributes:
        weights: one per value, in the order of `VALUES`.
    """

    weights: tuple[float, ...]

    @property
    def present(self) -> tuple[Value, ...]:
        """The values that are asked for at all."""
        return tuple(value for value, weight in zip(VALUES, self.weights, strict=True) if weight > 0)

    @property
    def binary(self) -> bool:
        """Whether every weight is 0 or 1."""
        return set(self.weights) <= {0.0, 1.0}

    def degree(self, value: Value) -> str:
        """How much `value` is asked for, in words: not at all (0), a little, moderately, strongly, fully (1)."""
        weight = self.weights[VALUES.index(value)]
        return next((word for limit, word in _DEGREES if weight <= limit), "fully")


def parse_profile(weights: Mapping[str, object], where: str) -> Profile:
    """A profile from values by name; one that is not named is not asked for.

    Args:
        where: the file, row or key that an error names.

    Raises:
        UserError: an unknown value, or a weight that is no number from 0 to 1.
    """
    for name, weight in weights.items():
        if name not in VALUE_NAMES:
            raise UserError(f"{where}: unknown value {name!r}; expected one of {', '.join(VALUE_NAMES)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise UserError(f"{where}: value '{name}': expected a number from 0 to 1, found {weight!r}")
    return Profile(tuple(float(weights.get(name, 0)) for name in VALUE_NAMES))  # type: ignore[arg-type]
