"""Adapters (LoRA) on a model: written as PEFT writes them, read without running anything that they bring."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from consilience.errors import UserError
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


def put_on(model: PreTrainedModel, folder: Path, base_digest: str) -> None:
    """Put the adapter in `folder` on `model`, in place and frozen.

    Raises:
        UserError: no plain LoRA adapter in `folder`, or one for another base.
    """
    try:
        found = json.loads((folder / ADAPTER_SETTINGS).read_text(encoding="utf-8"))
        if found["peft_type"] != "LORA" or found.get("use_dora"):
            raise ValueError(f"{ADAPTER_SETTINGS}: not a plain LoRA adapter")
        settings = LoraConfig(task_type=TaskType.CAUSAL_LM, **{key: found[key] for key in _KEPT if key in found})
        weights = load_file(folder / ADAPTER_WEIGHTS)
        with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
            made_for = (file.metadata() or {}).get(_BASE, base_digest)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: no adapter can be read: {' '.join(str(error).split())}") from None
    if made_for != base_digest:
        raise UserError(f"{folder}: an adapter of another base than this model; expected weights {made_for[:12]}")
    try:
        adapted = get_peft_model(model, settings)
    except ValueError as error:
        raise UserError(f"{folder}: an adapter of another base: {' '.join(str(error).split())}") from None
    own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if {name: each.shape for name, each in own.items()} != {name: each.shape for name, each in weights.items()}:
        raise UserError(f"{folder}: an adapter of another base than this model; its weights have other names or shapes")
    set_peft_model_state_dict(adapted, weights)
    adapted.requires_grad_(False)
