"""The GPU that is tested, and the CPU beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

GPU = "cuda"


def is_there() -> bool:
    return torch.cuda.is_available()


def name() -> str:
    """As its maker calls it."""
    return torch.cuda.get_device_name()


def wait() -> None:
    """Until the GPU has done what it was told, so that a clock can be read."""
    torch.cuda.synchronize()


def random_state() -> torch.Tensor:
    """Of the generator that draws on the GPU."""
    return torch.cuda.get_rng_state()


@contextmanager
def on_cpu() -> Iterator[None]:
    """Within the block models are loaded as where there is no GPU."""
    with patch.object(torch.cuda, "is_available", lambda: False):
        yield
