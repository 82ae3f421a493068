"""Tiny causal language models with random weights and a real tokeniser, saved as a user's folder would be."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from consilience.theories import THEORIES, scale_question, yes_no_question

CHAT = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


@cache
def _vocabulary() -> str:
    tokeniser = Tokenizer(models.BPE())
    tokeniser.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokeniser.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|text|>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [ask(theory) for theory in THEORIES for ask in (yes_no_question, scale_question)]
    tokeniser.train_from_iterator([*texts, *["yes no\nyes\nno\nYes No\nYes\nNo"] * 20], trainer)
    return tokeniser.to_str()


def tiny_tokeniser(chat: str | None = CHAT) -> PreTrainedTokenizerFast:
    """Byte-level, digits apart, yes and no single tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_vocabulary()),
        bos_token="<|text|>",
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=["<|start|>"],
        chat_template=chat,
    )


def save_tiny_model(folder: Path, kind: type[PreTrainedConfig], chat: str | None = CHAT, **settings: Any) -> str:
    """Weights large enough that attention matters. Returns the folder as a source."""
    torch.manual_seed(0)
    tokeniser = tiny_tokeniser(chat)
    model = AutoModelForCausalLM.from_config(kind(**{"vocab_size": len(tokeniser), **SIZES, **settings}))
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                weights.normal_(std=0.3)
    model.save_pretrained(folder)
    tokeniser.save_pretrained(folder)
    return str(folder)
