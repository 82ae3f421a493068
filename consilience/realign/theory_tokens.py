"""A theory's own tokens: new embedding rows that stand where the theory's word was. No weight of the model changes.

A word of N sub-tokens gets N new tokens, which start as copies of these (arXiv 2506.14625, part "embedding
optimisation"). Their ids lie above the model's embedding matrix, padding of the vocabulary included, so that they are
nobody else's; they have no row in the output embeddings, tied or not, and are never predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from consilience.errors import UserError
from consilience.lm.prompts import Prompts, encode
from consilience.theories import Theory

_next_id: "WeakKeyDictionary[nn.Module, int]" = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class TheoryWord:
    """A theory's word in its prompt.

    Attributes:
        ids: N token ids of the word, the space before it included.
        suffix: S token ids from the end of the dilemma's block to where the answer begins.
        places: positions of the word in `suffix`, rising: N for every time it occurs.
    """

    ids: tuple[int, ...]
    suffix: tuple[int, ...]
    places: tuple[int, ...]

    @property
    def which(self) -> list[int]:
        """For each place, which of the N tokens stands there."""
        return [index % len(self.ids) for index in range(len(self.places))]

    def with_tokens(self, tokens: Sequence[int]) -> list[int]:
        """The suffix with N other tokens in the word's place."""
        ids = list(self.suffix)
        for place, index in zip(self.places, self.which, strict=True):
            ids[place] = tokens[index]
        return ids


def find_word(tokeniser: PreTrainedTokenizerBase, prompts: Prompts, theory: Theory) -> TheoryWord:
    """Where `theory`'s word stands in its prompt.

    Raises:
        UserError: the tokeniser does not write the word alike wherever it stands.
    """
    suffix = prompts.suffix(theory)
    word = encode(tokeniser, f" {theory.name}", after="by")
    places = _places(suffix, word)
    if not places or len(places) != len(word) * tokeniser.decode(suffix).count(theory.name):
        raise UserError(f"theory '{theory.name}': the tokeniser does not write the word alike wherever it stands")
    return TheoryWord(tuple(word), tuple(suffix), tuple(places))


def swap_word(ids: Sequence[int], word: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """`ids` with `tokens` wherever the sub-tokens `word` stand."""
    swapped = list(ids)
    for index, place in enumerate(_places(ids, word)):
        swapped[place] = tokens[index % len(word)]
    return swapped


def _places(ids: Sequence[int], word: Sequence[int]) -> list[int]:
    starts = [i for i in range(len(ids) - len(word) + 1) if list(ids[i : i + len(word)]) == list(word)]
    return [start + index for start in starts for index in range(len(word))]


def embed(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """(n, width) what the model's embedding layer puts out for `ids`: scaled where the model scales it."""
    with torch.no_grad():
        return model.get_input_embeddings()(torch.tensor(ids, device=model.device))


class AppliedTokens:
    """Theory tokens on a loaded model, from now until `remove`; several may be on it at once.

    Args:
        model: its weights are not touched, only its embedding layer gets hooks.
        word: the N sub-tokens that the tokens stand for.
        rows: (N, width) as the embedding layer would put them out.

    Attributes:
        ids: the N new token ids, for use in `input_ids`.
    """

    def __init__(self, model: PreTrainedModel, word: Sequence[int], rows: Tensor) -> None:
        layer: Any = model.get_input_embeddings()
        first: int = _next_id.get(layer, layer.weight.shape[0])
        _next_id[layer] = first + len(word)
        self.ids = tuple(range(first, first + len(word)))
        self._first = first
        self._word = torch.tensor(word, device=model.device)
        self._rows = rows.detach().to(model.device)
        self._seen: Tensor | None = None
        self._hooks = [layer.register_forward_pre_hook(self._look_up), layer.register_forward_hook(self._replace)]

    def remove(self) -> None:
        """Take the tokens off; the model is as it was."""
        for hook in self._hooks:
            hook.remove()

    def _look_up(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        ids: Tensor = args[0]
        self._seen = (ids >= self._first) & (ids < self._first + len(self._word))
        self._index = ids[self._seen] - self._first
        return (ids.masked_scatter(self._seen, self._word[self._index]), *args[1:])

    def _replace(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self._seen is None or not len(self._index):
            return output
        output = output.clone()
        output[self._seen] = self._rows[self._index].to(output.dtype)
        return output
