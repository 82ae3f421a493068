"""The state of an optimiser as named tensors, which safetensors can hold."""

from collections.abc import Mapping

from torch import Tensor
from torch.optim import Optimizer

STATE_FILE = "optimiser.safetensors"


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """`INDEX.KEY` to tensor: what the optimiser keeps of its parameter number INDEX, such as `0.exp_avg`."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}


def restore_optimiser(optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave, into an optimiser of the same parameters; its settings stay its own.

    The tensors may be on any device. Torch moves them to their parameters, but for the count of steps, which it reads
    on the CPU before each step: from a GPU that would wait for all that is under way there.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value.cpu()
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
