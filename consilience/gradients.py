"""Gradients of a batch that several workers share, and the rate at which they are followed."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector


def sum_over_workers(parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
    """The sum of `loss`, a scalar, over all workers; the gradients of `parameters` are summed in place.

    A parameter without a gradient counts as one whose gradient is zero. Alone, a worker's own loss.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return loss
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([parameters_to_vector(gradients), loss.reshape(1)])
    dist.all_reduce(flat)
    parts = torch.split(flat[:-1], [gradient.numel() for gradient in gradients])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter).clone()
    return flat[-1]


def rate_share(step: int, steps: int, warmup: float) -> float:
    """The share of the highest learning rate that step number `step` of `steps` has, in (0, 1]: it rises linearly
    over the share `warmup` of the steps, then falls linearly to 0."""
    rising = int(warmup * steps)
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising)
