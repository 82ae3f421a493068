"""What an optimiser knows survives a file, and a step is clipped and taken at its own rate."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim import AdamW

from consilience.files import atomic_folder
from consilience.gradients import clipped_step, sum_over_workers
from consilience.optimiser_state import STATE_FILE, optimiser_tensors, restore_optimiser


def optimiser_of(start: torch.Tensor, rate: float = 0.1) -> tuple[torch.nn.Parameter, AdamW]:
    parameter = torch.nn.Parameter(start.clone())
    return parameter, AdamW([{"params": [parameter]}, {"params": [torch.nn.Parameter(torch.zeros(2))]}], lr=rate)


def descend(parameter: torch.nn.Parameter, optimiser: AdamW, scale: float) -> None:
    optimiser.zero_grad()
    parameter.grad = scale * torch.tensor([1.0, -2.0, 3.0])
    optimiser.step()


def test_a_restored_optimiser_takes_the_very_steps_that_would_have_followed(tmp_path: Path) -> None:
    parameter, optimiser = optimiser_of(torch.ones(3))
    for scale in (1.0, 5.0, -2.0):
        descend(parameter, optimiser, scale)
    tensors = optimiser_tensors(optimiser)
    assert set(tensors) == {"0.step", "0.exp_avg", "0.exp_avg_sq"}, "the other parameter has had no gradient"
    save_file(tensors, tmp_path / STATE_FILE)
    again, restored = optimiser_of(parameter.detach())
    descend(again, restored, 3.0)  # what is put back replaces what was there
    with torch.no_grad():
        again.copy_(parameter)
    restore_optimiser(restored, load_file(tmp_path / STATE_FILE))
    for each, own in ((parameter, optimiser), (again, restored)):
        descend(each, own, 4.0)
    torch.testing.assert_close(again, parameter, rtol=0, atol=0)


def test_settings_are_the_optimisers_own() -> None:
    parameter, optimiser = optimiser_of(torch.ones(3))
    descend(parameter, optimiser, 1.0)
    _, other = optimiser_of(torch.ones(3), rate=0.7)
    restore_optimiser(other, optimiser_tensors(optimiser))
    assert [group["lr"] for group in other.param_groups] == [0.7, 0.7]


def test_a_step_is_clipped_and_each_group_has_its_rate() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimiser = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=0.0)
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    clipped_step(optimiser, [1.0, 10.0])
    assert first.item() == pytest.approx(-0.6, rel=1e-5)
    assert second.item() == pytest.approx(-8.0, rel=1e-5)
    assert first.grad is None
    first.grad = torch.tensor([torch.nan])
    with pytest.raises(RuntimeError, match="non-finite"):
        clipped_step(optimiser, [1.0, 1.0])


def test_alone_a_workers_figures_are_its_own() -> None:
    figures = torch.tensor([1.0, 2.0])
    assert sum_over_workers([torch.nn.Parameter(torch.zeros(2))], figures) is figures


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "b") as new:
        (new / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "a" / "c"):
        1 / 0  # noqa: B018
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
