"""Where only the last layers are trained, what enters them is a constant: read once, kept for every epoch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from consilience.lm.language_model import LanguageModel
from consilience.lm.packed_attention import Prompt

TokenIds = tuple[int, ...]

MEMORY = 2**30
"""Bytes of states that are kept; what does not fit is read through all layers every time."""


class FrozenLayers:
    """The layers below the trained ones, and the states that leave them, by token sequence.

    A state depends on the tokens up to its own alone, so that a sequence's states serve in whatever batch it stands.
    Needs a model whose prompts can be packed.

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

    def states(self, prompts: Sequence[Prompt]) -> Tensor | None:
        """(1, T, width) what enters layer `first` for prompts side by side; None where memory has no room for it."""
        layout = [[(*prompt.prefix, *suffix) for suffix in prompt.suffixes] for prompt in prompts]
        for prompt, sequences in zip(prompts, layout, strict=True):
            if not all(sequence in self._kept for sequence in sequences):
                if self._bytes > MEMORY:
                    return None
                self._read(prompt, sequences)
        parts = []
        for prompt, sequences in zip(prompts, layout, strict=True):
            start = len(prompt.prefix)
            parts += [self._kept[sequences[0]][:start], *(self._kept[sequence][start:] for sequence in sequences)]
        return torch.cat(parts)[None]

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """Within the block the model begins with layer `first`: the layers below it hand on what they are given."""
        below = self._layers[: self._first]
        for layer in below:
            layer.forward = _hand_on
        try:
            yield
        finally:
            for layer in below:
                del layer.forward

    def _read(self, prompt: Prompt, sequences: Sequence[TokenIds]) -> None:
        caught: list[Tensor] = []
        hook = self._layers[self._first].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        try:
            with torch.inference_mode(False), torch.no_grad():  # what is kept may enter a training step
                self._model.logits([prompt], [0])
        finally:
            hook.remove()
        states, place = caught[0][0], len(prompt.prefix)
        for sequence, suffix in zip(sequences, prompt.suffixes, strict=True):
            own = torch.cat([states[: len(prompt.prefix)], states[place : place + len(suffix)]])
            place += len(suffix)
            if sequence not in self._kept:
                self._kept[sequence] = own
                self._bytes += own.numel() * own.element_size()


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states
