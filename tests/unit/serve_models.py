"""Tiny agents with random weights, an aggregator and a consensus, saved as the jobs save them."""

import json
from pathlib import Path

import torch
from lm_models import CHAT, save_tiny_model
from peft import LoraConfig, TaskType, get_peft_model
from serve_fakes import small_consensus
from transformers import LlamaConfig

from consilience.theories import VALUE_NAMES
from consilience.values.aggregator import AGGREGATOR
from consilience.values.base import BaseConfig, load_own
from consilience.values.saved import save_adapters


def save_tiny_runs(folder: Path, agents: tuple[str, ...] = VALUE_NAMES) -> dict[str, object]:
    """Run folders of agents and aggregator, and one of a pipeline whose pool has no model; as keys of a config."""
    base = BaseConfig(source=save_tiny_model(folder / "base", LlamaConfig, CHAT), dtype="float32")
    for run, names in (("agents", agents), ("aggregator", (AGGREGATOR,))):
        places = {}
        for seed, name in enumerate(names):
            torch.manual_seed(seed)
            lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, target_modules="all-linear", init_lora_weights=False)
            get_peft_model(load_own(base).model, lora).save_pretrained(folder / "checkpoints" / name)
            places[name] = folder / "checkpoints" / name
        save_adapters(folder / run, base, places, {"context": "dynamic"})
    small_consensus().save(_made(folder / "demo") / "consensus_model.json")
    pool = [{"annotator": f"a{k}", "kind": "synthetic", "behaviour": "constant", "value": 0.8} for k in range(4)]
    broken = {"annotator": "a4", "kind": "transformers", "source": str(folder / "nothing")}
    manifest = {"job": "pipeline", "config": {"pool": [*pool, broken]}}
    (folder / "demo/manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return {
        "consensus": str(folder / "demo"),
        "agents": str(folder / "agents"),
        "aggregator": str(folder / "aggregator"),
        "engine": "transformers",
    }


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
