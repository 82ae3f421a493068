"""Adapters on one base in vLLM's engine, which batches continuously: a reply starts beside those under way."""

import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from consilience.lm.generator import end_tokens
from consilience.lm.sources import ADAPTER_SETTINGS, open_source
from consilience.lm.vllm_annotator import check_vllm
from consilience.values.answer_settings import BASE
from consilience.values.saved import SavedAdapters, check_saved
from consilience.values.streaming import Turn
from serve_app.config import Batching

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_CPU_CACHE_BYTES = 2**30


def open_vllm_writer(*saved: SavedAdapters) -> "VLLMWriter":
    """All adapters of one or more run folders on one engine with their common base.

    Raises:
        UserError: vLLM is not installed, the base cannot be had, or it is not the one of the adapters.
        ValueError: vLLM cannot run the model here; it says why.
    """
    check_vllm()
    for each in saved:
        check_saved(each)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    from vllm import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    base = saved[0].base
    folder = open_source(base.source, base.revision).folder
    places = {name: place for each in saved for name, place in each.adapters.items()}
    rank = max(json.loads((place / ADAPTER_SETTINGS).read_text(encoding="utf-8"))["r"] for place in places.values())
    on_cpu = not torch.cuda.is_available()
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            str(folder),
            skip_tokenizer_init=True,
            dtype=base.dtype,
            max_model_len=-1,  # the model's window, or what fits the cache
            enable_prefix_caching=True,
            enable_lora=True,
            max_loras=len(places) + 1,  # vLLM on a CPU adds what is in the last slot to rows that have no adapter
            max_lora_rank=next(allowed for allowed in _RANKS if allowed >= rank),
            enforce_eager=on_cpu,
            kv_cache_memory_bytes=_CPU_CACHE_BYTES if on_cpu else None,
        )
    )
    adapters = {name: LoRARequest(name, number, str(place)) for number, (name, place) in enumerate(places.items(), 1)}
    tokeniser = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return VLLMWriter(engine, tokeniser, adapters, end_tokens(GenerationConfig.from_pretrained(folder), tokeniser))


class VLLMWriter:
    """A `writer.Writer`."""

    def __init__(
        self,
        engine: "AsyncLLM",
        tokeniser: PreTrainedTokenizerBase,
        adapters: "dict[str, LoRARequest]",
        ends: list[int],
    ) -> None:
        self.tokeniser = tokeniser
        self.window: int | None = engine.model_config.max_model_len
        self._engine, self._adapters, self._ends, self._numbers = engine, adapters, ends, count()

    def reconfigure(self, batching: Batching) -> None:
        """Nothing: the engine batches as it can."""

    async def write(self, turn: Turn) -> AsyncGenerator[str, None]:
        """The reply, piece by piece. Closing it gives the reply up."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        settings = SamplingParams(
            temperature=turn.temperature,
            max_tokens=turn.max_new_tokens,
            stop_token_ids=self._ends,
            detokenize=False,
            output_kind=RequestOutputKind.CUMULATIVE,
        )
        prompt: Any = {"prompt_token_ids": list(turn.prompt)}
        adapter = None if turn.agent == BASE else self._adapters[turn.agent]
        outputs = self._engine.generate(prompt, settings, str(next(self._numbers)), lora_request=adapter)
        async with aclosing(outputs):
            async for output in outputs:
                (found,) = output.outputs
                if found.finish_reason is not None:
                    turn.ended = "length" if found.finish_reason == "length" else "stop"
                if piece := turn.hear(self.tokeniser, list(found.token_ids)):
                    yield piece
