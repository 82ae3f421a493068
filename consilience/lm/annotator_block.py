"""What every kind of annotator has in a config."""

from typing import Literal

from pydantic import Field

from consilience.config import Config

Elicitation = Literal["yes_no", "scale_0_10"]


class AnnotatorBlock(Config):
    """Base of the annotator blocks: a name in the pool, and a group where there are groups."""

    annotator: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$", description="unique name in the pool")
    group: str | None = Field(None, description="named group, for a consensus per group")


class ModelBlock(AnnotatorBlock):
    """Base of the blocks whose model runs in the actor itself."""

    source: str = Field(description="hub id, local folder, or package:MODULE/FILE.gguf")
    revision: str | None = Field(None, description="commit of a hub id; required for hub ids")
    persona: str | None = Field(None, description="who the model answers as, e.g. 'a hospital nurse'")
    elicitation: Elicitation = "yes_no"
    num_cpus: float = Field(1, gt=0, description="CPU cores of one actor")
    actors: tuple[int, int] = Field((1, 1), description="smallest and largest number of actors for this model")
