"""What calibration can be told: the model, how it and an encoder are tuned, and the parts."""

from typing import Literal

from pydantic import Field

from consilience.config import Config
from consilience.ppo.settings import LoraSettings
from consilience.values.settings import FitConfig
from consilience.workers import WorkersConfig

Loss = Literal["cross_entropy", "dirichlet_multinomial"]
LOSSES: tuple[Loss, ...] = ("cross_entropy", "dirichlet_multinomial")


Pairs = Literal["apart", "together"]
"""How a model is asked which of two actions is less ethical."""


class ModelConfig(Config):
    """The language model that is measured and tuned."""

    source: str = Field(description="hub id, local folder, or package:MODULE/FILE.gguf")
    revision: str | None = Field(None, description="hub id: the 40 hexadecimal digits of a commit")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where it is faster")
    pairs: Pairs = Field(
        "apart", description="two actions: each asked about alone and the answers compared, or both in one question"
    )
    four_bit: bool = Field(False, description="base weights in NF4 under the adapter (QLoRA); a GPU and bitsandbytes")


class LanguageModelFit(FitConfig):
    """How the adapter is trained, by AdamW; the epoch with the least cross-entropy on dev is kept."""

    epochs: int = Field(3, ge=1, description="passes over the items")
    batch_size: int = Field(16, ge=1, description="items of one step, all workers together")
    learning_rate: float = Field(2e-4, gt=0, description="of the adapter at its highest")
    head_learning_rate: float = Field(1e-2, gt=0, description="of the log-concentration at its highest")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    lora: LoraSettings = Field(LoraSettings(), description="the adapter")
    layers: int | None = Field(
        None, ge=1, description="last layers that get an adapter; what enters them is read once; null: all layers"
    )


class EncoderFit(FitConfig):
    """How the encoder baseline is trained, by AdamW; the epoch with the least cross-entropy on dev is kept."""

    epochs: int = Field(4, ge=1, description="passes over the items")
    batch_size: int = Field(16, ge=1, description="items of one step, all workers together")


class TuningWorkersConfig(WorkersConfig):
    """Where models are tuned and read."""

    checkpoint_batches: int = Field(50, ge=1, description="batches between checkpoints")
