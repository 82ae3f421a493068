"""What every kind of annotator has in a config."""

from typing import Literal

from pydantic import Field

from consilience.config import Config

Elicitation = Literal["yes_no", "scale_0_10"]


class AnnotatorBlock(Config):
    """Base of the annotator blocks: a name in the pool, and a group where there are groups."""

    annotator: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$", description="unique name in the pool")
    group: str | None = Field(None, description="named group, for a consensus per group")
