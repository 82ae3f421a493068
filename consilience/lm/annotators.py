"""What an annotator is, in a config: one typed block per kind."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from consilience.lm.annotator_block import AnnotatorBlock, ModelBlock
from consilience.lm.openai_annotator import OpenAIAnnotator
from consilience.lm.vllm_annotator import VLLMAnnotator


class TransformersAnnotator(ModelBlock):
    """A causal language model read through transformers, in this process."""

    kind: Literal["transformers"]
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where it is faster")
    num_gpus: float = Field(0, ge=0, description="GPUs of one actor")


class RealignedAnnotator(ModelBlock):
    """A model with theory tokens on it (`consilience.realign`), read through transformers and its own head.

    vLLM cannot read the head, so it does not offer this kind.
    """

    kind: Literal["realigned"]
    parent: str = Field(description="annotator that it was made from, whose place it takes in the pool")
    artefacts: tuple[Path, ...] = Field(min_length=1, description=".safetensors of theory tokens, one per theory")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="as the parent's")
    num_gpus: float = Field(0, ge=0, description="GPUs of one actor")


class CalibratedAnnotator(ModelBlock):
    """A model tuned on people's votes (`consilience.calibration`): its base with the adapter on it."""

    kind: Literal["calibrated"]
    adapter: Path = Field(description="folder `adapter` of a run of jobs.calibrate")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="as in tuning")
    num_gpus: float = Field(0, ge=0, description="GPUs of one actor")


class SyntheticAnnotator(AnnotatorBlock):
    """A behaviour without a model: a robustness control, never a stand-in for one."""

    kind: Literal["synthetic"]
    behaviour: Literal["random01", "uniform", "constant", "copycat", "inverted", "recorded"]
    seed: int = 0
    value: float = Field(0.5, ge=0, le=1, description="the score of 'constant'")
    recording: Path | None = Field(None, description="run folder that copycat, inverted and recorded replay")
    of: str | None = Field(None, description="annotator in the recording; default: the same name")


AnnotatorConfig = Annotated[
    TransformersAnnotator
    | RealignedAnnotator
    | CalibratedAnnotator
    | VLLMAnnotator
    | OpenAIAnnotator
    | SyntheticAnnotator,
    Field(discriminator="kind"),
]
