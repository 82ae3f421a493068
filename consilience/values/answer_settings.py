"""How agents are asked, apart from the models that answer, which take long to import."""

from pydantic import Field

from consilience.config import Config

BASE = "base"
"""The name under which the base answers, all adapters off."""

AGGREGATOR = "aggregator"
"""The name of the aggregator's adapter."""


class AnswerConfig(Config):
    """How answers are drawn."""

    max_new_tokens: int = Field(64, ge=1, description="longest answer, in tokens")
    temperature: float = Field(0.0, ge=0, description="0 = always the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest mass p")
    batch_size: int = Field(16, ge=1, description="answers side by side")
    seed: int = Field(0, ge=0, description="of the drawing, where temperature is above 0")
