"""Replies that are heard while they are written, each with its own limits, and that may be given up."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from consilience.lm.language_model import LanguageModel
from consilience.ppo.rollout import pad_left
from consilience.values.agents import Agents
from consilience.values.answer_settings import BASE
from consilience.values.base import load_own
from consilience.values.saved import SavedAdapters, check_saved

_UNFINISHED = "\ufffd"  # what a tokeniser makes of a character whose last bytes are still to come


@dataclass(slots=True)
class Turn:
    """One reply, from what is asked to what has been said.

    Attributes:
        prompt: token ids.
        agent: the adapter that replies, or `BASE`.
        max_new_tokens: longest reply, at least 1.
        temperature: 0 = always the likeliest token.
        given_up: set by whoever no longer wants the reply; it then ends at the next token.
        tokens: how many were written.
        ended: None while it is being written, then why it ended: the model's own end, or the longest length, or
            because it was given up.
    """

    prompt: Sequence[int]
    agent: str
    max_new_tokens: int
    temperature: float = 0.0
    given_up: bool = False
    tokens: int = 0
    ended: Literal["stop", "length", "given up"] | None = None
    said: str = field(default="", repr=False)

    def hear(self, tokeniser: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
        """What `ids`, all tokens so far, say beyond what was said; half a character and a last space are kept back."""
        self.tokens = len(ids)
        text = str(tokeniser.decode(list(ids), skip_special_tokens=True)).strip()
        if self.ended is None:
            text = text.rstrip(_UNFINISHED).rstrip()
        said = len(self.said)
        if not text.startswith(self.said):
            if self.ended is None:  # the tokeniser writes earlier text anew: wait until it agrees
                return ""
            # It never did. What was said stays said, but what follows is not lost.
            said = next((k for k, (a, b) in enumerate(zip(text, self.said, strict=False)) if a != b), len(text))
        new, self.said = text[said:], text
        return new


Heard = Callable[[list[str | None]], None]
"""Called after each step with what every turn has said since the last; None for a turn that has ended before."""


class StreamingAgents(Agents):
    """`Agents` whose replies can be followed."""

    def stream(self, turns: Sequence[Turn], heard: Heard) -> None:
        """Write the replies to `turns`, side by side where they fit; each has its own length, temperature and adapter.

        Joined, what a turn says is its reply without the white space around it.
        """
        for turn in turns:
            if turn.agent != BASE and turn.agent not in self.names:
                raise ValueError(f"unknown agent '{turn.agent}'")
        for rows in _side_by_side(turns, self.model.window):
            self._write(turns, rows, heard)

    def _write(self, everyone: Sequence[Turn], rows: Sequence[int], heard: Heard) -> None:
        turns = [everyone[row] for row in rows]

        def told(pieces: list[str | None]) -> None:
            said: list[str | None] = ["" if turn.ended is None else None for turn in everyone]
            for row, piece in zip(rows, pieces, strict=True):
                said[row] = piece
            heard(said)

        ids, mask = pad_left([turn.prompt for turn in turns], self._ends[0], self.model.model.device)
        warm = any(turn.temperature > 0 for turn in turns)
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=warm,
            max_new_tokens=max(turn.max_new_tokens for turn in turns),
            eos_token_id=self._ends,
            pad_token_id=self._ends[0],
            **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if warm else {}),
        )
        listener = _Listener(turns, told, self.model.tokeniser, ids.shape[1], self._ends)
        self._generate(
            ids,
            mask,
            [turn.agent for turn in turns],
            generation_config=settings,
            logits_processor=LogitsProcessorList([_Temperatures(turns)] if warm else []),
            stopping_criteria=StoppingCriteriaList([listener]),
        )


def open_streaming(*saved: SavedAdapters) -> StreamingAgents:
    """As `agents.open_agents`."""
    for each in saved:
        check_saved(each)
    model: LanguageModel = load_own(saved[0].base)
    return StreamingAgents(model, {name: place for each in saved for name, place in each.adapters.items()})


def _side_by_side(turns: Sequence[Turn], window: int | None) -> Iterator[list[int]]:
    """Rows to be written at once. Who has ended is padded until all have, and a longest prompt with the longest reply
    beside it may exceed the window though neither does with its own: learned positions would run out."""
    together: list[int] = []
    longest = 0
    for row in sorted(range(len(turns)), key=lambda row: turns[row].max_new_tokens):
        longest = max(longest, len(turns[row].prompt))
        if together and window is not None and longest + turns[row].max_new_tokens > window:
            yield sorted(together)
            together, longest = [], len(turns[row].prompt)
        together.append(row)
    yield sorted(together)


class _Temperatures(LogitsProcessor):
    """Divides each row by its temperature; where that is 0, only the likeliest token is left."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._temperatures = torch.tensor([turn.temperature for turn in turns])[:, None]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        temperatures = self._temperatures.to(scores)
        likeliest = torch.full_like(scores, -torch.inf).scatter_(1, scores.argmax(1, keepdim=True), 0)
        return torch.where(temperatures > 0, scores / temperatures.clamp(min=1e-3), likeliest)


class _Listener(StoppingCriteria):
    """Reads every new token of every row, passes its text on, and says which rows have ended."""

    def __init__(
        self,
        turns: Sequence[Turn],
        heard: Heard,
        tokeniser: PreTrainedTokenizerBase,
        width: int,
        ends: Sequence[int],
    ) -> None:
        self._turns, self._heard, self._tokeniser = turns, heard, tokeniser
        self._width, self._ends = width, set(ends)

    def __call__(self, input_ids: Tensor, scores: object, **others: object) -> Tensor:
        written = input_ids[:, self._width :].tolist()
        self._heard([self._hear(turn, ids) for turn, ids in zip(self._turns, written, strict=True)])
        return torch.tensor([turn.ended is not None for turn in self._turns], device=input_ids.device)

    def _hear(self, turn: Turn, ids: list[int]) -> str | None:
        if turn.ended is not None:
            return None
        if ids[-1] in self._ends:
            turn.ended = "stop"
        elif len(ids) >= turn.max_new_tokens:
            turn.ended = "length"
        elif turn.given_up:
            turn.ended = "given up"
        return turn.hear(self._tokeniser, ids)
