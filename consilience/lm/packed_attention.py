"""Prompts that share prefixes, side by side in one sequence: no padding, and no copy of a prefix's keys and values.

Each prompt is laid out as its prefix, then its suffixes one after another. A suffix token attends to the prefix and
to its own suffix, and has the position it would have if the other suffixes were not there. This needs a model that
leaves attention to transformers' `AttentionInterface`, as the Llama, Gemma 3, Qwen, Mistral and many other families
do.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

_NAME = "consilience_packed"
_CLOSE = 0.2
"""Relative difference of last hidden states: bfloat16 makes 0.07 at most, attention to wrong tokens 0.3 or more."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of a prefix, and of the suffixes that may each follow it. None is empty."""

    prefix: Sequence[int]
    suffixes: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(suffix) for suffix in self.suffixes)


@dataclass(slots=True)
class _Span:
    """Where a prompt lies in the sequence.

    Attributes:
        position: (n,) of each token in its own text.
        owner: (n,) 0 in the prefix, i in suffix i, counted from 1.
        masks: made once, used in every layer.
    """

    start: int
    prefix: int
    position: torch.Tensor
    owner: torch.Tensor
    masks: dict[Any, torch.Tensor] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        return self.start + len(self.position)

    def blocks(self, window: int | None) -> Iterator[tuple[slice, slice]]:
        """Queries and the keys within their reach: the prefix in blocks of a window at most, then all suffixes."""
        step = self.prefix if window is None else min(window, self.prefix)
        starts = [*range(0, self.prefix, step), self.prefix]
        for start, stop in zip(starts, [*starts[1:], len(self.position)], strict=True):
            yield slice(start, stop), slice(0 if window is None else max(0, start - window + 1), stop)

    def mask(self, queries: slice, keys: slice, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Additive mask (queries, keys): 0 where a token may attend, else -inf."""
        name = (queries.start, keys.start, window, dtype)
        if name not in self.masks:
            back = self.position[queries, None] - self.position[None, keys]
            owner = self.owner[None, keys]
            seen = (back >= 0) & ((owner == 0) | (owner == self.owner[queries, None]))
            if window is not None:
                seen &= back < window
            self.masks[name] = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -torch.inf)
        return self.masks[name]


class Packed:
    """Prompts laid out in one sequence of T tokens.

    Attributes:
        input_ids, position_ids: (1, T) int64.
    """

    def __init__(self, prompts: Sequence[Prompt], device: torch.device) -> None:
        ids: list[int] = []
        self.spans: list[_Span] = []
        self._ends: list[int] = []
        for prompt in prompts:
            start, prefix, lengths = len(ids), len(prompt.prefix), [len(suffix) for suffix in prompt.suffixes]
            position = torch.cat([torch.arange(prefix), *(torch.arange(prefix, prefix + n) for n in lengths)])
            owner = torch.repeat_interleave(torch.tensor([prefix, *lengths]))
            self.spans.append(_Span(start, prefix, position.to(device), owner.to(device)))
            ids += prompt.prefix
            for suffix in prompt.suffixes:
                ids += suffix
                self._ends.append(len(ids))
        self.input_ids = torch.tensor([ids], device=device)
        self.position_ids = torch.cat([span.position for span in self.spans])[None]

    def last(self, count: int) -> torch.Tensor:
        """Indices (prompts x suffixes x count,) of the last `count` tokens of every suffix."""
        return (torch.tensor(self._ends)[:, None] + torch.arange(-count, 0)).flatten().to(self.input_ids.device)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, window: int | None
    ) -> torch.Tensor:
        """Attention of queries (1, heads, T, width) over keys and values (1, groups, T, width): (1, T, heads, width).

        `window` is how many tokens a layer looks back on, itself included; None = all.
        """
        if query.is_cuda:  # fast kernels with a mask want as many keys as queries there
            key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
        outputs = []
        for span in self.spans:
            q, k, v = (states[:, :, span.start : span.stop] for states in (query, key, value))
            for queries, keys in span.blocks(window):
                causal = queries == keys and queries.stop <= span.prefix
                output = scaled_dot_product_attention(
                    q[:, :, queries],
                    k[:, :, keys],
                    v[:, :, keys],
                    attn_mask=None if causal else span.mask(queries, keys, window, query.dtype),
                    is_causal=causal,
                    scale=scale,
                    enable_gqa=query.shape[1] != key.shape[1],
                )
                outputs.append(output.transpose(1, 2))
        return torch.cat(outputs, dim=1)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    packed: Packed,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer."""
    for name in ("softcap", "s_aux", "position_bias"):
        if more.get(name) is not None:
            raise NotImplementedError(f"{type(module).__name__} attends with {name}")
    return packed.attend(query, key, value, scaling, sliding_window), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, lambda *_, **__: None)


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, `model(..., position_ids=packed.position_ids, packed=packed)` attends as `packed` says."""
    usual = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def can_pack(model: PreTrainedModel) -> bool:
    """Whether packed attention gives what the model's own gives; if not, prompts are to be read one by one.

    What transformers' flash attention can serve (causal attention with windows and scales), this can. Layers of other
    kinds, soft caps and sinks it cannot; a short trial shows whatever else a model may do.
    """
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if not (model._supports_attention_backend and model._supports_flash_attn):
        return False
    if not layers <= {"full_attention", "sliding_attention"}:
        return False
    trial = [Prompt(range(1, 9), [range(9, 14), range(14, 17)]), Prompt(range(17, 22), [range(22, 26), range(26, 31)])]
    packed = Packed(trial, model.device)
    with torch.inference_mode():
        pairs = [[*prompt.prefix, *suffix] for prompt in trial for suffix in prompt.suffixes]
        own = torch.cat(
            [model.base_model(torch.tensor([ids], device=model.device)).last_hidden_state[0, -1:] for ids in pairs]
        )
        try:
            with packed_attention(model):
                output = model.base_model(
                    packed.input_ids, position_ids=packed.position_ids, packed=packed, use_cache=False
                )
        except (NotImplementedError, TypeError):
            return False
        return bool(torch.dist(output.last_hidden_state[0, packed.last(1)], own) < _CLOSE * own.norm())
