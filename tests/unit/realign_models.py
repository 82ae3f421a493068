"""Tiny models to realign, and a pair on them whose right answer is known."""

from pathlib import Path
from typing import Any

import numpy as np
from lm_models import save_tiny_model, tiny_tokeniser
from transformers import Gemma3TextConfig, LlamaConfig

from consilience.lm.annotators import TransformersAnnotator
from consilience.realign.pair import Pair
from consilience.realign.settings import SplitConfig
from consilience.realign.split import split_items

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "untied": (LlamaConfig, {"tie_word_embeddings": False}),
    "padded vocabulary": (LlamaConfig, {"vocab_size": len(tiny_tokeniser()) + 40, "tie_word_embeddings": True}),
    "scaled embeddings, short window": (
        Gemma3TextConfig,
        {
            "sliding_window": 24,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}


def save(folder: Path, name: str = "tied") -> str:
    """A tiny model of a name in `KINDS`, saved as a source."""
    kind, settings = KINDS[name]
    return save_tiny_model(folder / name.replace(" ", "_"), kind, **settings)


def annotator(source: str, **more: Any) -> TransformersAnnotator:
    return TransformersAnnotator(annotator="tiny", kind="transformers", source=source, dtype="float32", **more)


def pair(source: str, items: int = 24, folds: int = 2) -> Pair:
    """Dilemmas of two sorts, which a head can tell apart by a word; one sort is acceptable."""
    texts = [
        f"I {'kept' if item % 2 else 'gave back'} {item} coins that I had found on the way." for item in range(items)
    ]
    targets = np.array([0.05 if item % 2 else 0.95 for item in range(items)])
    return Pair(
        annotator(source), "deontology", texts, targets, split_items(items, SplitConfig(folds=folds), seed=3), 3
    )
