"""What a run of PPO can be told, apart from its trainer, which takes long to import."""

from typing import Literal

from pydantic import Field, model_validator

from consilience.config import Config
from consilience.errors import UserError
from consilience.workers import WorkersConfig

Rollouts = Literal["transformers", "vllm"]
"""What draws the answers."""


class LoraSettings(Config):
    """The adapter that is trained (Hu et al. 2022)."""

    rank: int = Field(16, ge=1, description="of the two matrices whose product is added to a module's weights")
    alpha: int = Field(32, ge=1, description="the adapter's output is scaled by alpha / rank")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field("all-linear", description="modules that get one")


class SamplingConfig(Config):
    """How responses are drawn."""

    max_new_tokens: int = Field(64, ge=1, description="longest response, in tokens")
    temperature: float = Field(1.0, gt=0, description="divides the logits, in sampling and in training alike")
    top_k: int | None = Field(None, ge=1, description="draw from the k likeliest tokens; log-probs stay untruncated")
    top_p: float | None = Field(None, gt=0, le=1, description="draw from the likeliest mass p; log-probs likewise")


class PPOConfig(Config):
    """Settings of a run. Sizes are in episodes (one prompt and its response) and count all workers together."""

    updates: int = Field(100, ge=1, description="updates of a run")
    batch_size: int = Field(64, ge=1, description="episodes sampled for an update")
    minibatch_size: int = Field(64, ge=1, description="episodes of one optimiser step")
    microbatch_size: int = Field(8, ge=1, description="episodes in memory at once while training")
    generation_batch_size: int = Field(64, ge=1, description="episodes in memory at once while sampling")
    epochs: int = Field(4, ge=1, description="passes over the episodes of an update")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="how responses are drawn")
    reward_on: Literal["response", "prompt_and_response"] = Field("response", description="the text that is scored")
    missing_eos_penalty: float = Field(0, ge=0, description="taken from the score of a response that does not end")
    learning_rate: float = Field(1e-4, gt=0, description="of AdamW, constant")
    max_grad_norm: float = Field(1.0, gt=0, description="longer gradients are cut to this norm")
    clip: float | None = Field(0.2, gt=0, lt=1, description="half width of the ratio's range; null for no clipping")
    value_clip: float | None = Field(0.2, gt=0, description="farthest a value moves in an update; null for any")
    value_coef: float = Field(0.1, ge=0, description="weight of the value loss")
    entropy_coef: float = Field(0, ge=0, description="weight of the entropy bonus")
    gamma: float = Field(1.0, gt=0, le=1, description="discount")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="of generalised advantage estimation; 1: no bootstrapping")
    whiten_advantages: bool = Field(True, description="advantages of an update to mean 0 and variance 1")
    kl_coef: float = Field(0.05, ge=0, description="price of a nat of KL to the reference, in units of reward")
    kl_target: float | None = Field(None, gt=0, description="nats per episode that kl_coef adapts to; null: fixed")
    kl_gain: float = Field(0.1, gt=0, lt=5, description="how fast kl_coef adapts")
    seed: int = Field(0, ge=0, description="of prompts, responses and minibatches")

    @model_validator(mode="after")
    def _sizes_divide(self) -> "PPOConfig":
        if self.batch_size % self.minibatch_size:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of minibatch_size {self.minibatch_size}")
        return self

    @model_validator(mode="after")
    def _target_can_be_reached(self) -> "PPOConfig":
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError("kl_target multiplies kl_coef, which is 0; expected more")
        return self

    def check_workers(self, workers: int) -> None:
        """Raise UserError unless `workers` can share every batch evenly."""
        for key in ("batch_size", "minibatch_size"):
            if (size := getattr(self, key)) % workers:
                raise UserError(f"{key} {size} cannot be shared by {workers} workers; expected a multiple")


class PPOWorkersConfig(WorkersConfig):
    """Where a run of PPO runs; the workers must divide its batch size."""

    checkpoint_every: int = Field(10, ge=1, description="updates between checkpoints")
