"""What the evaluation can be told about its measures, apart from what computes them, which takes long to import."""

from pydantic import Field

from consilience.values.settings import EncoderConfig


class ScoreEncoder(EncoderConfig):
    """The encoder that BERTScore rests on."""

    max_tokens: int = Field(256, ge=8, description="tokens of a text that are read; the rest is cut off")
    layer: int = Field(6, ge=1, description="whose hidden states are compared, counted from 1")

    @property
    def shown(self) -> str:
        """Model and layer, which belong to every figure."""
        return f"{self.source}, layer {self.layer}"
