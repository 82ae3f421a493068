"""A causal language model in this process: loaded once, read at the end of prompts that share prefixes."""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import linear
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from consilience.errors import UserError
from consilience.lm.packed_attention import Packed, Prompt, can_pack, packed_attention
from consilience.lm.sources import open_source

Dtype = Literal["auto", "float32", "bfloat16"]

_TOKENS_PER_BATCH = {"cpu": 2_048, "cuda": 32_768}


@cache
def load_model(
    source: str,
    revision: str | None = None,
    dtype: Dtype = "auto",
    adapter: Path | None = None,
    four_bit: bool = False,
) -> "LanguageModel":
    """Load a model once per process, on the GPU where there is one.

    Args:
        source, revision: see `sources`.
        dtype: auto is bfloat16 where it is faster than float32: on a GPU, and on a CPU with instructions for it.
        adapter: folder of an adapter (`adapters`) to put on it.
        four_bit: weights in NF4, twice quantised (Dettmers et al. 2023); needs a GPU and bitsandbytes.

    Raises:
        UserError: the source cannot be had, or is not a causal language model; or the adapter is not one for it.
    """
    files = open_source(source, revision)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        files.folder,
        dtype=_fastest(device) if dtype == "auto" else getattr(torch, dtype),
        local_files_only=True,
        output_loading_info=True,
        **(_four_bit() if four_bit else {}),
    )
    model, report = loaded
    if report["missing_keys"]:
        raise UserError(
            f"model source '{source}': not a causal language model, it has no {min(report['missing_keys'])}"
        )
    tokeniser = AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
    if adapter is not None:
        from consilience.lm.adapters import put_on  # PEFT takes seconds to import, and most models have no adapter

        put_on(model, adapter, files.digest)
    return LanguageModel(model if four_bit else model.to(device), tokeniser)


def check_four_bit() -> None:
    """Check that weights in four bits can be used.

    Raises:
        UserError: they cannot.
    """
    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        raise UserError("four_bit: needs a GPU and the package bitsandbytes; expected false here")


def _four_bit() -> dict[str, Any]:
    check_four_bit()
    settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": settings, "device_map": {"": 0}}


def _fastest(device: torch.device) -> torch.dtype:
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu.get_capabilities().get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32


def _contiguous(head: torch.nn.Module, states: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """`generate` hands the head a slice of the prompts' states, for which torch would copy the weights once a row."""
    return (states[0].contiguous(),)


class LanguageModel:
    """A causal language model and its tokeniser; the weights are frozen.

    Attributes:
        model, tokeniser: transformers' own.
        packs: whether prompts share their prefixes (`packed_attention`); otherwise they are read one by one.
        tokens_per_batch: how many tokens are read at once; a longer prompt is read alone.
    """

    def __init__(self, model: PreTrainedModel, tokeniser: PreTrainedTokenizerBase) -> None:
        self.model = model.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
        self.tokeniser = tokeniser
        self.packs = can_pack(model)
        self.tokens_per_batch = _TOKENS_PER_BATCH[model.device.type]
        self._head_is_linear = self._try_head()
        if head := model.get_output_embeddings():  # type: ignore[no-untyped-call]
            head.register_forward_pre_hook(_contiguous)

    @property
    def window(self) -> int | None:
        """Longest prompt that the model can read, in tokens; None = no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    def read(self, prompts: Sequence[Prompt], tokens: Sequence[int], positions: int = 1) -> npt.NDArray[np.float64]:
        """Natural log-probabilities of `tokens` after prefix and suffix.

        Args:
            prompts: n prompts of s suffixes each, at least one of each.
            tokens: k token ids.
            positions: how many positions at the end of each suffix are read; the last predicts what follows it.

        Returns:
            (n, s, positions, k)
        """
        return self.read_with_states(prompts, tokens, positions)[0]

    def read_with_states(
        self, prompts: Sequence[Prompt], tokens: Sequence[int], positions: int = 1
    ) -> tuple[npt.NDArray[np.float64], torch.Tensor]:
        """What `read` returns, and the last hidden states at the last position, (n, s, width) float32."""
        units = prompts if self.packs else [Prompt(p.prefix, [suffix]) for p in prompts for suffix in p.suffixes]
        forward = self._forward_packed if self.packs else self._forward_padded
        result = np.empty((len(units), len(units[0].suffixes), positions, len(tokens)))
        hidden = torch.empty(len(units), len(units[0].suffixes), self.width, device=self.model.device)
        wanted = torch.tensor(tokens, device=self.model.device)
        with torch.inference_mode():
            for batch in batches([len(unit) for unit in units], self.tokens_per_batch):
                states, logits = forward([units[index] for index in batch], positions)
                read = self._log_probs(states, logits, wanted)
                result[batch] = read.cpu().double().numpy().reshape(len(batch), *result.shape[1:])
                hidden[batch] = states.view(len(batch), -1, positions, self.width)[:, :, -1].float()
        shape = (len(prompts), -1)
        return result.reshape(*shape, positions, len(tokens)), hidden.view(*shape, self.width)

    def logits(
        self, prompts: Sequence[Prompt], tokens: Sequence[int], embeddings: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of `tokens` after every suffix, (r, k) float32, and the log-normaliser of each of the r places, (r,).

        All in one batch. Gradients flow into whatever weights take one, an adapter's say. `embeddings` (1, T, width)
        stand in for those of the packed prompts' tokens; only a model that packs takes them.
        """
        if self.packs:
            states, logits = self._forward_packed(prompts, 1, embeddings)
        else:
            states, logits = self._forward_padded(
                [Prompt(p.prefix, [suffix]) for p in prompts for suffix in p.suffixes], 1
            )
        wanted = torch.tensor(tokens, device=self.model.device)
        chosen = self._logits(states, wanted) if self._head_is_linear else logits[:, wanted].float()
        return chosen, logits.detach().float().logsumexp(-1)

    def _forward_packed(
        self, prompts: Sequence[Prompt], positions: int, embeddings: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Last hidden states (r, width) and logits (r, vocabulary) at r = prompts x suffixes x positions places."""
        packed = Packed(prompts, self.model.device)
        inputs = {"input_ids": packed.input_ids} if embeddings is None else {"inputs_embeds": embeddings}
        with packed_attention(self.model):
            states, logits = self._forward(
                packed.last(positions), **inputs, position_ids=packed.position_ids, packed=packed
            )
        return states[0], logits[0]

    def _forward_padded(self, prompts: Sequence[Prompt], positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `_forward_packed`, for prompts of one suffix, each a row of its own."""
        rows = [torch.tensor([*prompt.prefix, *prompt.suffixes[0]]) for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows])
        places = lengths[:, None] + torch.arange(-positions, 0)
        keep, columns = torch.unique(places, return_inverse=True)
        states, logits = self._forward(
            keep.to(self.model.device),
            input_ids=pad_sequence(rows, batch_first=True).to(self.model.device),
            attention_mask=(torch.arange(int(lengths.max())) < lengths[:, None]).long().to(self.model.device),
        )
        index = (torch.arange(len(rows))[:, None].expand_as(columns).flatten(), columns.flatten())
        return states[index], logits[index]

    def _forward(self, keep: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Last hidden states (rows, kept, width) and logits (rows, kept, vocabulary) at the places `keep`."""
        caught: list[torch.Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            logits = self.model(**inputs, logits_to_keep=keep, use_cache=False).logits
        finally:
            hook.remove()
        return caught[0], logits

    def _log_probs(self, states: torch.Tensor, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(r, k) float32. bfloat16 logits are too coarse for the answers: these are computed again, in float32."""
        chosen = self._logits(states, tokens) if self._head_is_linear else logits[:, tokens].float()
        return chosen - logits.float().logsumexp(-1, keepdim=True)

    def _logits(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        head = self.model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[tokens].float()
        return linear(states.float(), head.weight[tokens].float(), bias)

    def _try_head(self) -> bool:
        """Whether the logits are the output embeddings' product with the last hidden state and nothing more."""
        tokens = torch.arange(1, 9, device=self.model.device)
        with torch.inference_mode():
            states, logits = self._forward(tokens - 1, input_ids=tokens[None])
            own = logits[0][:, tokens].float()
            return bool(torch.dist(self._logits(states[0], tokens), own) < 0.02 * own.norm())


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of like lengths together, `budget` tokens a batch at most or one index alone."""
    batch: list[int] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and total + lengths[index] > budget:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += lengths[index]
    if batch:
        yield batch
