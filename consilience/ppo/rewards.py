"""Calling the user's reward: what it returns is checked before it trains anything."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from consilience.errors import UserError

Reward = Callable[[list[str]], Sequence[float]]
"""Texts of a batch to one finite score each, higher is better."""

TokenReward = Callable[[list[list[int]]], Sequence[Sequence[float]]]
"""Response token ids of a batch to one finite score per token each."""


def call_reward(reward: Reward, texts: list[str]) -> list[float]:
    """Scores of `texts`.

    Raises:
        UserError: the reward raised, or returned another number of scores, or a NaN, an infinity or no number.
    """
    return _checked(reward, _call(reward, texts), len(texts), "texts")


def call_token_reward(reward: TokenReward, responses: list[list[int]]) -> list[list[float]]:
    """Scores of every token of `responses`.

    Raises:
        UserError: as for `call_reward`.
    """
    rows = _sized(reward, _call(reward, responses), len(responses), "responses")
    return [_checked(reward, row, len(tokens), "tokens") for row, tokens in zip(rows, responses, strict=True)]


def _call(reward: Callable[[Any], Any], batch: list[Any]) -> Any:
    try:
        return reward(batch)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"reward {_name(reward)} raised {_line(f'{type(error).__name__}: {error}')}") from error


def _checked(reward: Callable[..., Any], scores: Any, expected: int, what: str) -> list[float]:
    numbers = []
    for place, score in enumerate(_sized(reward, scores, expected, what)):
        try:
            number = float(score)
        except (TypeError, ValueError, RuntimeError):  # the last from a tensor of several numbers
            number = math.nan
        if not math.isfinite(number):
            shown = _line(repr(score))
            raise UserError(f"reward {_name(reward)} returned {shown} at position {place}; expected a finite number")
        numbers.append(number)
    return numbers


def _sized(reward: Callable[..., Any], scores: Any, expected: int, what: str) -> Sequence[Any]:
    try:
        found: int | str = len(scores)
    except TypeError:
        found = type(scores).__name__
    if found != expected:
        raise UserError(f"reward {_name(reward)} returned {found} scores for {expected} {what}; expected one each")
    return scores


def _line(text: str) -> str:
    return " ".join(text.split())


def _name(reward: Callable[..., Any]) -> str:
    return getattr(reward, "__name__", type(reward).__name__)
