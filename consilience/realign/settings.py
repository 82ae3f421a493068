"""What realignment can be told: how to train, how to split the items, and when a consensus is fit to be a target."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from consilience.config import Config
from consilience.errors import UserError
from consilience.lm.annotators import AnnotatorConfig, TransformersAnnotator
from consilience.workers import WorkersConfig


class TrainingConfig(Config):
    """How theory tokens and head are trained, by AdamW without weight decay."""

    cosine_weight: float = Field(1.0, ge=0, description="lambda: weight of the cosine distance to the originals")
    token_learning_rate: float = Field(0.02, gt=0, description="step of a token as a share of the originals' RMS")
    head_learning_rate: float = Field(1e-3, gt=0, description="of the head that reads acceptability")
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
    """What a consensus must be to serve as a target. docs/realign.md: where this is from, and what it cannot see."""

    min_decided: float = Field(0.5, ge=0, le=1, description="share of items with a consensus outside 0.25 to 0.75")
    max_interval: float = Field(0.5, gt=0, description="mean width of the calibrated consensus' 95 % interval")
    min_stability: float = Field(0.8, ge=0, le=1, description="share of labels that a bootstrap of the items keeps")
    min_votes: float = Field(2.5, ge=0, description="effective number of independent annotators")
    draws: int = Field(50, ge=2, description="bootstrap resamples")


class RealignWorkersConfig(WorkersConfig):
    """Where a pair is trained."""

    checkpoint_items: int = Field(5_000, ge=1, description="items read for training between checkpoints")
    cache_gb: float = Field(4.0, ge=0, description="prefix cache of a worker that is held in memory; larger: on disk")


class TuneSettings(Config):
    """A search over lambda, learning rates and head by Ray Tune; trials that fall behind are stopped (ASHA)."""

    trials: int = Field(12, ge=1, description="settings that are tried")
    grace_epochs: int = Field(2, ge=1, description="epochs that every trial has")


class RealignOptions(Config):
    """Which pairs, and how they are trained. Only annotators of kind transformers can be realigned: vLLM shows neither
    embeddings nor hidden states, an API model nothing at all, and a synthetic annotator has none."""

    pairs: Literal["flagged", "worst"] | tuple[str, ...] = Field(
        "flagged",
        description="flagged: at most two per annotator; worst: the worst of these; or [annotator/theory, ...]",
    )
    training: TrainingConfig = Field(TrainingConfig(), description="lambda, learning rates, head, epochs, patience")
    split: SplitConfig = Field(SplitConfig(), description="80/10/10, or folds where items are few")
    gate: GateConfig = Field(GateConfig(), description="what the consensus must be to serve as a target")
    force: bool = Field(False, description="train where the gate says that the consensus is too weak")
    workers: RealignWorkersConfig = Field(
        RealignWorkersConfig(), description="workers, num_cpus, num_gpus, checkpoints, failures"
    )
    tune: TuneSettings | None = Field(None, description="search lambda, learning rates and head first, by dev JS")


def named_pair(name: str, pool: Mapping[str, AnnotatorConfig], theories: Sequence[str]) -> tuple[str, str]:
    """Annotator and theory of `ANNOTATOR/THEORY`.

    Raises:
        UserError: no such annotator or theory, or an annotator of another kind than transformers.
    """
    annotator, _, theory = name.rpartition("/")
    if annotator not in pool or theory not in theories:
        expected = f"annotator/theory of the run, such as {next(iter(pool))}/{theories[0]}"
        raise UserError(f"pairs: '{name}': expected {expected}")
    if not isinstance(pool[annotator], TransformersAnnotator):
        raise UserError(f"pairs: '{name}' is of kind {pool[annotator].kind}; only kind transformers can be realigned")
    return annotator, theory
