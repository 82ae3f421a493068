"""The hidden state at the end of a prompt, as a function of what stands in the prompt's last few tokens.

All weights are frozen and the theory's word stands at the end, so the keys and values of everything before it are
constants. `SuffixReader` computes them once and afterwards reads (and differentiates) the last tokens alone;
`FullReader` reads whole prompts, for models whose attention cannot be replaced and to check the other by.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from consilience.realign.theory_tokens import embed

_NAME = "consilience_suffix"


class Reader(Protocol):
    """Reads n prompts, numbered from 0, that all end alike."""

    def states(self, items: Sequence[int], suffix: Tensor) -> Tensor:
        """(b, width) float32: last hidden state at the last position of the prompts `items`.

        `suffix` (S, width) are the embeddings of the last S tokens, the same for all; gradients flow into it.
        """
        ...

    def attending(self) -> AbstractContextManager[None]:
        """The block in which states are read: the model attends as the reader needs it."""
        ...


class FullReader:
    """`Reader` of whole prompts, padded at the right.

    Args:
        model: any causal language model; its weights are to be frozen.
        prefixes: token ids before the suffix, one sequence per prompt.
    """

    def __init__(self, model: PreTrainedModel, prefixes: Sequence[Sequence[int]]) -> None:
        self._model, self._prefixes = model, prefixes

    def states(self, items: Sequence[int], suffix: Tensor) -> Tensor:
        """See `Reader`."""
        rows = [torch.cat([embed(self._model, self._prefixes[item]), suffix]) for item in items]
        lengths = torch.tensor([len(row) for row in rows], device=suffix.device)
        mask = (torch.arange(int(lengths.max()), device=suffix.device) < lengths[:, None]).long()
        output = self._model.base_model(
            inputs_embeds=pad_sequence(rows, batch_first=True), attention_mask=mask, use_cache=False
        )
        return output.last_hidden_state[torch.arange(len(rows)), lengths - 1].float()

    def attending(self) -> AbstractContextManager[None]:
        """As usual."""
        return nullcontext()


class SuffixReader:
    """`Reader` of suffixes on cached prefixes; needs a model for which `lm.packed_attention.can_pack` holds.

    The cache takes 2 x layers x key-value heads x head width numbers of the model's own type for each prefix token
    (SmolLM2-135M in bfloat16: 23 KB a token). It is held in memory, or in a memory-mapped file where it is larger than
    `memory` bytes.

    Args:
        model: its weights are to be frozen.
        prefixes: token ids before the suffix, one sequence per prompt.
        mine: which prefixes are cached; the others cannot be read here.
        memory: bytes above which the cache goes to a file.
        folder: where that file is made; it is deleted at once, and its space freed when the reader is gone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prefixes: Sequence[Sequence[int]],
        mine: Sequence[int],
        memory: float,
        folder: Path,
    ) -> None:
        self._model = model
        self._lengths = {item: len(prefixes[item]) for item in mine}
        self._blocks: dict[int, list[Tensor]] = {}
        flat: Tensor | None = None
        used = 0
        for item in mine:
            layers = self._read_prefix(prefixes[item])
            if flat is None:
                per_token = sum(layer.numel() for layer in layers) // len(prefixes[item])
                flat = _allocate(per_token * sum(self._lengths.values()), layers[0], memory, folder)
            blocks = []
            for layer in layers:
                blocks.append(flat[used : used + layer.numel()].view(layer.shape).copy_(layer))
                used += layer.numel()
            self._blocks[item] = blocks
        self.bytes = 0 if flat is None else flat.numel() * flat.element_size()

    def _read_prefix(self, ids: Sequence[int]) -> list[Tensor]:
        """Keys and values (2, groups, P, width) of each layer."""
        prefix = _Prefix()
        with torch.inference_mode(), self.attending():
            self._model.base_model(torch.tensor([ids], device=self._model.device), use_cache=False, attention=prefix)
        return [prefix.kept[layer] for layer in sorted(prefix.kept)]

    @contextmanager
    def attending(self) -> Iterator[None]:
        """See `Reader`."""
        usual = self._model.config._attn_implementation
        if usual == _NAME:
            yield
            return
        self._model.set_attn_implementation(_NAME)
        try:
            yield
        finally:
            self._model.set_attn_implementation(usual)

    def states(self, items: Sequence[int], suffix: Tensor) -> Tensor:
        """See `Reader`."""
        lengths = torch.tensor([self._lengths[item] for item in items], device=suffix.device)
        output = self._model.base_model(
            inputs_embeds=suffix.expand(len(items), -1, -1),
            position_ids=lengths[:, None] + torch.arange(len(suffix), device=suffix.device),
            use_cache=False,
            attention=_Suffixes([self._blocks[item] for item in items]),
        )
        return output.last_hidden_state[:, -1].float()


def _allocate(numbers: int, like: Tensor, memory: float, folder: Path) -> Tensor:
    if numbers * like.element_size() <= memory:
        return torch.empty(numbers, dtype=like.dtype, device=like.device)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"prefixes-{id(like):x}.bin"
    try:
        return torch.from_file(str(path), shared=True, size=numbers, dtype=like.dtype)
    finally:
        path.unlink(missing_ok=True)


class _Prefix:
    """Causal attention over one prefix that keeps the keys and values of every layer."""

    def __init__(self) -> None:
        self.kept: dict[int, Tensor] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        self.kept[layer] = torch.cat([key, value])
        length = query.shape[2]
        mask = None
        if window is not None and window < length:
            back = torch.arange(length, device=query.device)
            back = back[:, None] - back[None]
            mask = (back >= 0) & (back < window)
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        ).transpose(1, 2)


class _Suffixes:
    """Attention of b suffixes of S tokens, each over its own cached prefix and itself."""

    def __init__(self, blocks: Sequence[list[Tensor]]) -> None:
        self._blocks = blocks
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        groups, queries, width = key.shape[1], query.shape[2], query.shape[3]
        scale = width**-0.5 if scale is None else scale
        outputs = []
        for row, blocks in enumerate(self._blocks):
            prefix = blocks[layer].to(query.device)
            if window is not None:  # the first token of the suffix looks back on window - 1 others
                prefix = prefix[:, :, max(0, prefix.shape[2] - window + 1) :]
            before, own = prefix.shape[2], key[row]
            # Heads of a group share keys: one product for them all. Prefixes need no gradient and get none, which
            # fused attention would compute.
            heads = query[row].reshape(groups, -1, width) * scale
            logits = torch.cat([heads @ prefix[0].mT, heads @ own.mT], dim=-1)
            logits = logits.view(groups, -1, queries, before + queries)
            logits = logits.float() + self._mask(queries, before + queries, window, query.device)
            weights = torch.softmax(logits, dim=-1).to(value.dtype).view(groups, -1, before + queries)
            output = weights[..., :before] @ prefix[1] + weights[..., before:] @ value[row]
            outputs.append(output.view(-1, queries, width))
        return torch.stack(outputs).transpose(1, 2)

    def _mask(self, queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
        """Additive mask (queries, keys), the queries being the last of the keys; made once, used in every layer."""
        name = (keys, window)
        if name not in self._masks:
            place = torch.arange(keys, device=device)
            back = place[-queries:, None] - place[None]
            seen = back >= 0 if window is None else (back >= 0) & (back < window)
            self._masks[name] = torch.zeros(seen.shape, device=device).masked_fill_(~seen, -torch.inf)
        return self._masks[name]


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    attention: _Prefix | _Suffixes,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer."""
    layer: Any = module.layer_idx
    return attention.attend(layer, query, key, value, scaling, sliding_window), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, lambda *_, **__: None)
