"""Seconds of an epoch of theory-token training and peak memory, beside PEFT's trainable tokens on whole prompts.

    CONSILIENCE_DATA=../shared/data pytest tests/benchmarks/test_realign_speed.py -m bench -s

Both train the sub-tokens of one theory word of SmolLM2-135M-Instruct in float32, on the same posts of ETHICS `cm_ambig`
in the same batches, with the same head on the last hidden state and the same loss. PEFT's `TrainableTokensConfig` reads
whole prompts, padded, and no logits beyond the last position's. Each run is its own process, the two in turns. The time
of computing the cache, once for all epochs, stands beside. Peak memory is the process's largest resident set.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import torch
from torch import Tensor

from consilience.lm.annotators import TransformersAnnotator
from consilience.lm.language_model import load_model
from consilience.lm.prompts import Prompts
from consilience.realign.objective import Head, bernoulli_js
from consilience.realign.pair import Pair, locate
from consilience.realign.reader import SuffixReader
from consilience.realign.theory_tokens import embed
from consilience.realign.training import Suffix
from tests.benchmarks.realign_pool import SMOLLM2, posts

BATCH, ROUNDS = 8, 2
Step = Callable[[list[int]], Tensor]


def run(name: str, data: Path, items: int) -> dict[str, Any]:
    """Loss of each step of one epoch, its seconds, and seconds before it."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    texts = posts(data, items)[1]
    model = load_model(SMOLLM2, dtype="float32")
    annotator = TransformersAnnotator(annotator="smollm2", kind="transformers", source=SMOLLM2)
    targets = torch.linspace(0, 1, items)
    pair = Pair(annotator, "deontology", texts, targets.double().numpy(), [])
    torch.manual_seed(0)
    head = Head(model.width, "linear")
    torch.nn.init.normal_(head.layers[0].weight, std=0.02)  # type: ignore[arg-type]
    started = time.perf_counter()
    rows, states = {"ours": _ours, "peft": _peft}[name](model, pair)
    prepared = time.perf_counter() - started
    optimiser = torch.optim.AdamW([{"params": [rows], "lr": 1e-3}, {"params": head.parameters(), "lr": 1e-3}])
    losses = []
    started = time.perf_counter()
    for first in range(0, items, BATCH):
        batch = list(range(first, min(first + BATCH, items)))
        optimiser.zero_grad()
        loss = bernoulli_js(head(states(batch)), targets[batch]).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    tokens = statistics.mean(len(Prompts(model.tokeniser).prefix(text)) for text in texts)
    return {"seconds": seconds, "prepared": prepared, "peak_gb": peak, "losses": losses, "tokens": tokens}


def _ours(model: Any, pair: Pair) -> tuple[Tensor, Step]:
    prompts, word = locate(model, pair)
    first = word.places[0]
    prefixes = [[*prompts.prefix(text), *word.suffix[:first]] for text in pair.texts]
    reader = SuffixReader(model.model, prefixes, range(len(prefixes)), 16e9, Path(gettempdir()))
    originals = embed(model.model, word.ids)
    suffix = Suffix(embed(model.model, word.suffix[first:]), [p - first for p in word.places], word.which, originals)
    rows = originals.clone().requires_grad_(True)

    def states(batch: list[int]) -> Tensor:
        with reader.attending():
            return reader.states(batch, suffix.with_rows(rows))

    return rows, states


def _peft(model: Any, pair: Pair) -> tuple[Tensor, Step]:
    from peft import TrainableTokensConfig, get_peft_model

    prompts, word = locate(model, pair)
    ids = [torch.tensor([*prompts.prefix(text), *word.suffix]) for text in pair.texts]
    config = TrainableTokensConfig(token_indices=sorted(set(word.ids)), task_type="CAUSAL_LM")
    tuned = get_peft_model(model.model, config)
    (rows,) = {parameter for parameter in tuned.parameters() if parameter.requires_grad}
    caught: list[Tensor] = []
    tuned.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))

    def states(batch: list[int]) -> Tensor:
        chosen = [ids[item] for item in batch]
        width = max(map(len, chosen))
        padded = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in chosen])
        mask = torch.stack([(torch.arange(width) >= width - len(row)).long() for row in chosen])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        caught.clear()
        tuned(input_ids=padded, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=False)
        return caught[0][:, -1]

    return rows, states


def in_own_process(name: str, data: Path, items: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.test_realign_speed", name, str(data), str(items)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(data: Path, items: int) -> None:
    runs: dict[str, list[dict[str, Any]]] = {"peft": [], "ours": []}
    for _ in range(ROUNDS):
        for name, results in runs.items():
            results.append(in_own_process(name, data, items))
    mean = {
        name: {key: statistics.mean(result[key] for result in results) for key in ("seconds", "prepared", "peak_gb")}
        for name, results in runs.items()
    }
    difference = max(abs(a - b) for a, b in zip(runs["ours"][0]["losses"], runs["peft"][0]["losses"], strict=True))
    ratio = mean["peft"]["seconds"] / mean["ours"]["seconds"]
    print(f"\n{items} posts of {runs['ours'][0]['tokens']:.0f} tokens on average, batches of {BATCH}, float32\n")
    print("| | seconds an epoch | once before | peak memory, GB |\n|---|---|---|---|")
    for name, label in (("peft", "PEFT TrainableTokens, whole prompts"), ("ours", "suffixes on cached prefixes")):
        row = mean[name]
        print(f"| {label} | {row['seconds']:.1f} | {row['prepared']:.1f} | {row['peak_gb']:.2f} |")
    print(f"| ratio | {ratio:.1f} | | {mean['ours']['peak_gb'] / mean['peft']['peak_gb']:.2f} |")
    print(f"\nLargest difference of a step's loss: {difference:.1e}")
    assert difference < 1e-4
    assert ratio >= 5


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_an_epoch_takes_a_fifth_of_the_time() -> None:
    data = Path(os.environ.get("CONSILIENCE_DATA", "../shared/data"))
    if not (data / "ethics/commonsense/cm_ambig.csv.gz").is_file():
        pytest.skip("needs ETHICS cm_ambig.csv.gz; CONSILIENCE_DATA names the folder of the data sets")
    compare(data, 32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["ours", "peft"])
    parser.add_argument("data", type=Path)
    parser.add_argument("items", type=int)
    chosen = parser.parse_args()
    print(json.dumps(run(chosen.name, chosen.data, chosen.items)))
