"""How the aggregator is tuned, apart from its trainer, which takes long to import."""

from pydantic import Field, model_validator

from consilience.config import Config
from consilience.errors import UserError
from consilience.ppo.settings import LoraSettings


class SftSettings(Config):
    """Settings of the supervised tuning. Sizes are in examples and count all workers together."""

    lora: LoraSettings = Field(LoraSettings(rank=128, alpha=256), description="the aggregator's adapter")
    learning_rate: float = Field(5e-6, gt=0, description="of AdamW, after a warm-up falling linearly to 0")
    warmup_steps: int = Field(0, ge=0, description="steps in which the rate rises")
    steps: int = Field(1_000, ge=1, description="most optimiser steps")
    batch_size: int = Field(32, ge=1, description="examples of a step")
    microbatch_size: int = Field(4, ge=1, description="examples in memory at once, per worker")
    evaluate_every: int = Field(50, ge=1, description="steps between validations, each of which leaves a checkpoint")
    patience: int = Field(3, ge=1, description="validations without a lower loss before training stops")
    max_tokens: int = Field(1024, ge=64, description="longest example; data in its context are cut to fit")
    max_answer_tokens: int = Field(128, ge=8, description="longest reference answer")
    gradient_checkpointing: bool = Field(False, description="less memory, about a fifth slower")
    seed: int = Field(0, ge=0, description="of the adapter and the order of examples")

    @model_validator(mode="after")
    def _sizes_fit(self) -> "SftSettings":
        if self.batch_size % self.microbatch_size:
            raise ValueError(f"batch_size {self.batch_size}: not a multiple of microbatch_size {self.microbatch_size}")
        if self.max_answer_tokens >= self.max_tokens // 2:
            raise ValueError(f"max_answer_tokens {self.max_answer_tokens}: more than half of max_tokens")
        if self.evaluate_every > self.steps:
            raise ValueError(f"evaluate_every {self.evaluate_every}: more than steps {self.steps}, so never")
        return self

    def accumulation(self, workers: int) -> int:
        """How many microbatches of each worker make a step.

        Raises:
            UserError: no whole number of them does.
        """
        share = self.microbatch_size * workers
        if self.batch_size % share:
            raise UserError(f"batch_size {self.batch_size}: not a multiple of microbatch_size x workers, {share}")
        return self.batch_size // share
