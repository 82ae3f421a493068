"""A causal language model of ten words, small enough to enumerate everything it can say."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from consilience.ppo.policy import LoraSettings, Policy

WORDS = ["<pad>", "<end>", *"abcdefgh"]
PAD, END = 0, 1


def tiny_tokeniser() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def tiny_model(seed: int = 0, hidden_size: int = 32, num_attention_heads: int = 4) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config).eval()


def tiny_policy(seed: int = 0, rank: int = 8) -> Policy:
    return Policy(tiny_model(seed), tiny_tokeniser(), LoraSettings(rank=rank, alpha=2 * rank), seed)
