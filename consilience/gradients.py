"""Gradients of a batch that several workers share, and the rate at which they are followed."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, parameters_to_vector
from torch.optim import Optimizer

MAX_GRAD_NORM = 1.0


def sum_over_workers(parameters: Sequence[Tensor], figures: Tensor) -> Tensor:
    """The sum of `figures`, such as a loss, over all workers; the gradients of `parameters` are summed in place.

    A parameter without a gradient counts as one whose gradient is zero. Alone, a worker's own figures.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return figures
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([parameters_to_vector(gradients), figures.flatten()])
    dist.all_reduce(flat)
    *parts, total = torch.split(flat, [tensor.numel() for tensor in (*gradients, figures)])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter).clone()
    return total.view_as(figures)


def clipped_step(optimiser: Optimizer, rates: Sequence[float]) -> None:
    """One step at `rates`, one per group of parameters, on gradients cut to norm 1; then they are dropped.

    Raises:
        RuntimeError: a gradient is not finite.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    clip_grad_norm_(parameters, MAX_GRAD_NORM, error_if_nonfinite=True)
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad()


def rate_share(step: int, steps: int, warmup: float) -> float:
    """The share of the highest learning rate that step number `step` of `steps` has, in (0, 1]: it rises linearly
    over the share `warmup` of the steps, then falls linearly to 0."""
    rising = int(warmup * steps)
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising)
