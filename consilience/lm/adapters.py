"""Adapters (LoRA) on a model: written as PEFT writes them, read without running anything that they bring."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from consilience.errors import UserError, one_line
from consilience.files import atomic_path, write_json
from consilience.lm.sources import ADAPTER_SETTINGS, ADAPTER_WEIGHTS

_BASE = "base_digest"
_KEPT = ("r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern")


def add_adapter(model: PreTrainedModel, settings: LoraConfig, seed: int) -> dict[str, torch.nn.Parameter]:
    """Put a fresh adapter on `model`, in place; the model answers as before until it is trained.

    Returns:
        name to parameter, float32, all that is to be trained.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, settings).eval()
    return {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}


def save_adapter(folder: Path, rank: int, alpha: int, weights: Mapping[str, torch.Tensor], base_digest: str) -> None:
    """Write an adapter that any user of PEFT can read.

    Args:
        folder: where to.
        rank, alpha: of all its modules.
        weights: by parameter names as `add_adapter` returns them.
        base_digest: of the weights it belongs on.
    """
    plain = {name.replace(".default.", "."): value.contiguous() for name, value in weights.items()}
    modules = sorted({name.removeprefix("base_model.model.").split(".lora_")[0] for name in plain})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha}
    write_json(folder / ADAPTER_SETTINGS, {**settings, "target_modules": modules})
    with atomic_path(folder / ADAPTER_WEIGHTS) as temporary:
        save_file(plain, temporary, metadata={"format": "pt", _BASE: base_digest})


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A plain LoRA adapter as it was found in a folder.

    Attributes:
        folder: where.
        settings: only what decides its shape and scale.
        weights: by PEFT's names.
        base_digest: of the weights that it belongs on; None where it does not say.
    """

    folder: Path
    settings: LoraConfig
    weights: dict[str, torch.Tensor]
    base_digest: str | None


def read_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`, in PEFT's format.

    Raises:
        UserError: there is none, or it is not a plain LoRA adapter.
    """
    try:
        found = json.loads((folder / ADAPTER_SETTINGS).read_text(encoding="utf-8"))
        if found["peft_type"] != "LORA" or found.get("use_dora"):
            raise ValueError(f"{ADAPTER_SETTINGS}: not a plain LoRA adapter")
        kept = {key: found[key] for key in _KEPT if key in found}
        settings = LoraConfig(task_type=TaskType.CAUSAL_LM, inference_mode=True, **kept)
        with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
            base_digest = (file.metadata() or {}).get(_BASE)
        return Adapter(folder, settings, load_file(folder / ADAPTER_WEIGHTS), base_digest)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: no adapter can be read: {one_line(error)}") from None


@contextmanager
def fitting(adapter: Adapter) -> Iterator[None]:
    """Turn what PEFT raises where a model has no place for `adapter` into a UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{adapter.folder}: an adapter of another base than this model: {one_line(error)}") from None


def fill(model: PeftModel, adapter: Adapter, name: str = "default") -> None:
    """Give the adapter called `name` on `model` the weights that were read.

    Raises:
        ValueError: they have other names or shapes.
    """
    own = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if {key: x.shape for key, x in own.items()} != {key: x.shape for key, x in adapter.weights.items()}:
        raise ValueError("its weights have other names or shapes")
    set_peft_model_state_dict(model, adapter.weights, adapter_name=name)


def put_on(model: PreTrainedModel, folder: Path, base_digest: str) -> None:
    """Put the adapter in `folder` on `model`, in place and frozen.

    Raises:
        UserError: no plain LoRA adapter in `folder`, or one for another base.
    """
    adapter = read_adapter(folder)
    with fitting(adapter):
        if adapter.base_digest is not None and adapter.base_digest != base_digest:
            raise ValueError(f"it belongs on weights {adapter.base_digest[:12]}")
        adapted = get_peft_model(model, adapter.settings)
        fill(adapted, adapter)
    adapted.requires_grad_(False)
