"""Where only the last layers are trained, what enters them is a constant: read once, kept for every epoch."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from consilience.lm.language_model import LanguageModel
from consilience.lm.packed_attention import Prompt

TokenIds = tuple[int, ...]

MEMORY = 2**30
"""Bytes of states that are kept; what does not fit is read every time."""


class FrozenLayers:
    """The layers below the trained ones, and the states that leave them, by token sequence.

    A state depends on the tokens up to its own alone, so that a sequence's states serve in whatever batch it stands.
    Each sequence is read alone: then its states are the same to the last bit whenever they are read, and a resumed
    training repeats the numbers of an uninterrupted one. Needs a model whose prompts can be packed.

    Args:
        model: its weights below layer `first` must not change.
        first: number of the first layer that is trained, from 1.
    """

    def __init__(self, model: LanguageModel, first: int) -> None:
        self._model = model
        self._layers: Any = model.model.base_model.layers
        self._first = first
        self._kept: dict[TokenIds, Tensor] = {}
        self._bytes = 0

    def states(self, prompts: Sequence[Prompt]) -> Tensor:
        """(1, T, width) what enters layer `first` for prompts side by side."""
        parts: list[Tensor] = []
        for prompt in prompts:
            start = len(prompt.prefix)
            found = [self._read((*prompt.prefix, *suffix)) for suffix in prompt.suffixes]
            parts += [found[0][:start], *(states[start:] for states in found)]
        return torch.cat(parts)[None]

    def skipped(self) -> AbstractContextManager[None]:
        """Within the block the model begins with layer `first`."""
        return _handing_on(self._layers[: self._first])

    def _read(self, sequence: TokenIds) -> Tensor:
        """(n, width) of one sequence of n tokens, two at least."""
        if sequence in self._kept:
            return self._kept[sequence]
        caught: list[Tensor] = []
        hook = self._layers[self._first].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        try:
            # What is kept may enter a training step. The layers from `first` on have nothing to add.
            with torch.inference_mode(False), torch.no_grad(), _handing_on(self._layers[self._first :]):
                self._model.logits([Prompt(sequence[:-1], [sequence[-1:]])], [0])
        finally:
            hook.remove()
        states = caught[0][0].clone()
        if self._bytes <= MEMORY:
            self._kept[sequence] = states
            self._bytes += states.numel() * states.element_size()
        return states


@contextmanager
def _handing_on(layers: Any) -> Iterator[None]:
    """Within the block `layers` hand on what they are given."""
    for layer in layers:
        layer.forward = _hand_on
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states
