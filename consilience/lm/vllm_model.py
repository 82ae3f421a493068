"""A causal language model in vLLM's engine, in this process: read like a `language_model.LanguageModel`."""

import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from consilience.lm.packed_attention import Prompt
from consilience.lm.sources import open_source
from consilience.lm.vllm_annotator import check_vllm

if TYPE_CHECKING:
    from vllm import LLM

_CPU_CACHE_GIB = 1.0
_CPU_BLOCK = 32
"""Tokens of a cached block: a prefix is shared in whole blocks only. vLLM's own 128 loses up to 127 of each post."""


@cache
def load_vllm_model(
    source: str,
    revision: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    num_gpus: int = 0,
    cache_gib: float | None = None,
) -> "VLLMModel":
    """Start an engine once per process.

    It runs in this process where one GPU or none holds the model: nothing is left behind when the process is killed,
    and on a CPU it takes the threads that torch has here, instead of all cores but one.

    Args:
        source, revision: see `sources`.
        dtype: auto is that of the model's files.
        num_gpus: GPUs that the model is split over; 0 = the CPU.
        cache_gib: memory for keys and values in GiB; by default 1 on a CPU and what is left of a GPU.

    Raises:
        UserError: vLLM is not installed, or the source cannot be had.
        ValueError: vLLM cannot run the model here; it says why.
    """
    check_vllm()
    files = open_source(source, revision)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.update(VLLM_NO_USAGE_STATS="1", VLLM_ENABLE_V1_MULTIPROCESSING="0")
    from vllm import LLM

    if num_gpus == 0:
        cache_gib = cache_gib or _CPU_CACHE_GIB
    engine = LLM(
        str(files.folder),
        skip_tokenizer_init=True,
        dtype=dtype,
        tensor_parallel_size=max(1, num_gpus),
        max_model_len=-1,  # the model's window, or what fits the cache
        kv_cache_memory_bytes=None if cache_gib is None else int(cache_gib * 2**30),
        block_size=None if num_gpus else _CPU_BLOCK,
        enable_prefix_caching=True,
        enforce_eager=num_gpus == 0,
    )
    return VLLMModel(engine, AutoTokenizer.from_pretrained(files.folder, local_files_only=True))


class VLLMModel:
    """An engine and its model's tokeniser.

    Attributes:
        tokeniser: transformers' own.
    """

    def __init__(self, engine: "LLM", tokeniser: PreTrainedTokenizerBase) -> None:
        self.tokeniser = tokeniser
        self._engine = engine

    @property
    def window(self) -> int:
        """Longest prompt that the engine can read, in tokens: it always writes one more."""
        length: int = self._engine.model_config.max_model_len
        return length - 1

    def read(self, prompts: Sequence[Prompt], tokens: Sequence[int], positions: int = 1) -> npt.NDArray[np.float64]:
        """Natural log-probabilities of `tokens` after prefix and suffix; see `LanguageModel.read`.

        Suffixes of a prefix, and positions of a suffix, are requests one after the other: the engine keeps the keys and
        values of what they share.
        """
        from vllm import SamplingParams

        requests: list[Any] = [
            {"prompt_token_ids": [*prompt.prefix, *suffix[: len(suffix) - behind]]}
            for prompt in prompts
            for suffix in prompt.suffixes
            for behind in reversed(range(positions))
        ]
        settings = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=list(tokens), detokenize=False)
        outputs = self._engine.generate(requests, settings, use_tqdm=False)
        found = [[output.outputs[0].logprobs[0][token].logprob for token in tokens] for output in outputs]
        return np.array(found, dtype=np.float64).reshape(len(prompts), -1, positions, len(tokens))
