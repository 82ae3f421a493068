"""A tiny text encoder with random weights and a real tokeniser, saved as a user's folder would be; and texts for it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from consilience.lm.sources import open_source
from consilience.theories import VALUE_NAMES
from consilience.values.about import About, Head
from consilience.values.classifier import ValueClassifier, save_classifier
from consilience.values.examples import FOLLOWS
from consilience.values.settings import EncoderConfig

GOOD = ("helped", "shared", "kept", "thanked", "honoured", "cleaned")
BAD = ("robbed", "cheated", "left", "mocked", "defied", "fouled")


def save_tiny_encoder(folder: Path) -> str:
    """Returns the folder as a source."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *["i", "my", "brother", "by", "the", "river", "on", "day", "0", "1", "2"], *GOOD, *BAD]
    # A fixed vocabulary: a trained one breaks ties differently in every process, and what is learned with it.
    tokeniser = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokeniser.normalizer = normalizers.BertNormalizer()
    tokeniser.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokeniser.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=tokeniser.get_vocab_size(),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=64,
        )
    )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokeniser, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return str(folder)


def without_own_tokens(source: str) -> str:
    """The encoder's tokeniser adds no tokens of its own, as those of many decoders; returns the source."""
    path = Path(source) / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    return source


def without_weights(source: str, part: str) -> str:
    """The encoder lacks the weights that have `part` in their name; returns the source."""
    path = Path(source) / "model.safetensors"
    save_file({name: x for name, x in load_file(path).items() if part not in name}, path, {"format": "pt"})
    return source


def value_examples(situations: int = 40, seed: int = 0) -> pd.DataFrame:
    """Two texts per situation, one with a good verb and one with a bad one, under one or two values, not yet split."""
    random = np.random.default_rng(seed)
    rows = []
    for k in range(situations):
        values = random.choice(VALUE_NAMES, size=1 + k % 2, replace=False)
        for verbs, label in ((GOOD, 1.0), (BAD, 0.0)):
            labels = dict.fromkeys(VALUE_NAMES, np.nan) | dict.fromkeys(values, label)
            text = f"I {random.choice(verbs)} my brother by the river on day {k}"
            origin = {"source": "made_up", "label_source": "human" if k % 4 else "predicted"}
            rows.append({"item_id": f"{k}-{label:.0f}", "text": text, "situation": f"s{k}", **origin, **labels})
    return pd.DataFrame(rows)


def store_classifier(
    folder: Path, model: ValueClassifier, encoder: EncoderConfig, heads: dict[str, Head], question: str = FOLLOWS
) -> Path:
    """A trained classifier as train_values leaves it in its run folder; returns that folder."""
    save_file(model.state_dict(), folder / "weights.safetensors")
    about = About(question, encoder, open_source(encoder.source).settings_digest, 0, heads)
    save_classifier(folder / question, folder / "weights.safetensors", about)
    return folder
