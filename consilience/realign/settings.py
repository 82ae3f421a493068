"""What realignment can be told: how to train, how to split the items, and when a consensus is fit to be a target."""

from typing import Literal

from pydantic import Field

from consilience.config import Config


class TrainingConfig(Config):
    """How theory tokens and head are trained, by AdamW without weight decay."""

    cosine_weight: float = Field(1.0, ge=0, description="lambda: weight of the cosine distance to the originals")
    token_learning_rate: float = Field(0.02, gt=0, description="step of a token as a share of the originals' RMS")
    head_learning_rate: float = Field(1e-3, gt=0)
    head: Literal["linear", "mlp"] = Field("linear", description="mlp: Linear-GELU-Linear")
    warmup_epochs: int = Field(10, ge=0, description="epochs of the head alone that every arm starts from")
    epochs: int = Field(10, ge=1, description="epochs of each arm at most")
    patience: int = Field(3, ge=1, description="epochs without a better dev JS after which an arm stops")
    batch_size: int = Field(16, ge=1, description="items of one step, all workers together")


class SplitConfig(Config):
    """Which items are trained on. Judged is only what was held out."""

    folds: int = Field(5, ge=2, description="folds of cross-fitting, where items are few")
    cross_fit_below: int = Field(300, ge=0, description="with fewer items than this, cross-fit; else split 80/10/10")


class GateConfig(Config):
    """What a consensus must be to serve as a target; docs/realign.md says where the defaults come from."""

    min_decided: float = Field(0.5, ge=0, le=1, description="share of items with a consensus outside 0.25 to 0.75")
    max_interval: float = Field(0.5, gt=0, description="mean width of the calibrated consensus' 95 % interval")
    min_stability: float = Field(0.8, ge=0, le=1, description="share of labels that a bootstrap of the items keeps")
    min_votes: float = Field(2.5, ge=0, description="effective number of independent annotators")
    draws: int = Field(50, ge=2, description="bootstrap resamples")
