"""Prompts of agents and aggregator as token ids, cut so that they always fit the model's window.

The rule: the frame and our own words (definitions, profile, labels) are kept whole. Where a prompt is too long, its
longest data, question and answers alike, are cut at their ends to one common length, the greatest that fits.
"""

from typing import TYPE_CHECKING

from consilience.errors import UserError
from consilience.lm.prompts import chat_form, encode, encode_data
from consilience.values.context import Data, Pieces, asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = "Answer the question in one or two sentences."

_DATA = "[[data]]"


def agent_prompt(tokeniser: "PreTrainedTokenizerBase", question: str, room: int | None) -> list[int]:
    """What an agent, or the base, reads: the question, as one user's turn. See `prompt` for `room` and errors."""
    return prompt(tokeniser, (asked(question),), room)


def prompt(tokeniser: "PreTrainedTokenizerBase", pieces: Pieces, room: int | None) -> list[int]:
    """Token ids of `pieces` as the user's turn, up to where the reply begins; in data no control token is recognised.

    Args:
        tokeniser: with a chat template `INSTRUCTION` is the system's turn, without one the first line.
        room: most token ids; None = no limit.

    Raises:
        UserError: not even the words around the data fit.
    """
    data = [piece for piece in pieces if isinstance(piece, Data)]
    words = _frame(tokeniser, "".join(_DATA if isinstance(piece, Data) else piece for piece in pieces)).split(_DATA)
    fixed = [encode(tokeniser, words[0]), *(encode(tokeniser, text, after=".") for text in words[1:])]
    if tokeniser.chat_template is None and tokeniser.bos_token_id is not None:
        fixed[0].insert(0, tokeniser.bos_token_id)
    loose = [_encode(tokeniser, piece, before) for piece, before in zip(data, words[:-1], strict=True)]
    if room is not None:
        left = room - sum(map(len, fixed))
        if left < len(loose):
            raise UserError(f"room for {room} tokens: the words of a prompt alone take {room - left}; expected more")
        longest = longest_that_fits([len(ids) for ids in loose], left)
        loose = [ids[:longest] for ids in loose]
    return fixed[0] + [token for ids, after in zip(loose, fixed[1:], strict=True) for token in ids + after]


def longest_that_fits(lengths: list[int], room: int) -> int:
    """The greatest n at which all of `lengths`, cut to n, sum to at most `room`; room >= 0."""
    left = room
    for place, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - place)
        if length > share:
            return share
        left -= length
    return max(lengths, default=0)


def _frame(tokeniser: "PreTrainedTokenizerBase", user: str) -> str:
    return chat_form(tokeniser, user, INSTRUCTION) if tokeniser.chat_template else f"{INSTRUCTION}\n{user}\nAnswer:"


def _encode(tokeniser: "PreTrainedTokenizerBase", piece: Data, before: str) -> list[int]:
    """Where it follows a label, with the space that parts them."""
    if before.endswith(":"):
        return encode_data(tokeniser, f" {piece.line}", after=":")
    return encode_data(tokeniser, piece.line)
