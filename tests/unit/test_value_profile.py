"""Profiles: five numbers from 0 to 1, said in words."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilience.errors import UserError
from consilience.theories import VALUE_NAMES, VALUES
from consilience.values.profile import parse_profile

CARE = VALUES[1]


def test_values_that_are_not_named_are_not_asked_for() -> None:
    profile = parse_profile({"care": 1, "loyalty": 0.4}, "here")
    assert profile.weights == (0.0, 1.0, 0.0, 0.4, 0.0)
    assert [value.name for value in profile.present] == ["care", "loyalty"]
    assert not profile.binary
    assert parse_profile({"care": 1}, "here").binary
    assert parse_profile({}, "here").present == ()


@pytest.mark.parametrize(
    ("weight", "words"),
    [(0, "not at all"), (1e-9, "a little"), (0.33, "a little"), (0.5, "moderately"), (0.9, "strongly"), (1, "fully")],
)
def test_degrees_are_said_in_words(weight: float, words: str) -> None:
    assert parse_profile({"care": weight}, "here").degree(CARE) == words


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, math.inf, True, "1", None])
def test_a_weight_out_of_range_is_refused(weight: Any) -> None:
    with pytest.raises(UserError, match="row 3: value 'care': expected a number from 0 to 1"):
        parse_profile({"care": weight}, "row 3")


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(UserError, match="row 3: unknown value 'liberty'; expected one of authority, care"):
        parse_profile({"liberty": 1}, "row 3")


@given(st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_a_value_is_present_exactly_where_its_degree_is_not_zero(weights: list[float]) -> None:
    profile = parse_profile(dict(zip(VALUE_NAMES, weights, strict=True)), "here")
    for value, weight in zip(VALUES, weights, strict=True):
        assert (value in profile.present) == (weight > 0) == (profile.degree(value) != "not at all")
