"""Where a training runs: the part of its settings that every method shares."""

from pydantic import Field, model_validator

from consilience.config import Config

PROGRESS = "progress.json"
"""In the folder of a training: `done` and `total` steps, and a `note` on where it stands."""


class WorkersConfig(Config):
    """Where a training runs. Any number of workers computes the same numbers, up to rounding."""

    workers: int = Field(1, ge=1, description="processes that share every batch")
    num_cpus: float = Field(1, gt=0, description="CPU cores of one worker")
    num_gpus: float = Field(0, ge=0, description="GPUs of one worker; a share of one for a single worker only")
    max_failures: int = Field(3, ge=0, description="restarts from the last checkpoint before the run is given up")

    @model_validator(mode="after")
    def _has_a_gpu_of_its_own(self) -> "WorkersConfig":
        if self.workers > 1 and self.num_gpus % 1:
            raise ValueError(f"num_gpus {self.num_gpus}: workers that share a GPU cannot talk (NCCL); expected 1 or 0")
        return self

    @property
    def at_once(self) -> tuple[float, float]:
        """CPU cores and GPUs of all workers together."""
        return self.workers * self.num_cpus, self.workers * self.num_gpus
