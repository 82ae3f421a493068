"""What an annotator is, in a config: one typed block per kind."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from consilience.lm.annotator_block import AnnotatorBlock, Elicitation


class TransformersAnnotator(AnnotatorBlock):
    """A causal language model read through transformers, in this process."""

    kind: Literal["transformers"]
    source: str = Field(description="hub id, local folder, or package:MODULE/FILE.gguf")
    revision: str | None = Field(None, description="commit of a hub id; required for hub ids")
    persona: str | None = Field(None, description="who the model answers as, e.g. 'a hospital nurse'")
    elicitation: Elicitation = "yes_no"
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where it is faster")
    num_cpus: float = Field(1, gt=0, description="CPU cores of one actor")
    num_gpus: float = Field(0, ge=0, description="GPUs of one actor")
    actors: tuple[int, int] = Field((1, 1), description="smallest and largest number of actors for this model")


class SyntheticAnnotator(AnnotatorBlock):
    """A behaviour without a model: a robustness control, never a stand-in for one."""

    kind: Literal["synthetic"]
    behaviour: Literal["random01", "uniform", "constant", "copycat", "inverted", "recorded"]
    seed: int = 0
    value: float = Field(0.5, ge=0, le=1, description="the score of 'constant'")
    recording: Path | None = Field(None, description="run folder that copycat, inverted and recorded replay")
    of: str | None = Field(None, description="annotator in the recording; default: the same name")


AnnotatorConfig = Annotated[TransformersAnnotator | SyntheticAnnotator, Field(discriminator="kind")]
