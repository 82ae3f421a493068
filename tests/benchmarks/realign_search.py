"""Do theory tokens help the head where they learn faster, where the head reads elsewhere, or without a head?

    python -m tests.benchmarks.realign_search --data ../shared/data --work runs/realign-arms [--confirm]

The 200 shortest posts of `realign_arms` with their target; what it has annotated there is used. 100 are trained on, 50
choose the epoch by the least JS, and on 50 the variants are compared. "own answers": no head at all, the model's own
yes and no are read, and tokens alone are trained. `--confirm`: the default learning rate and a faster one on three
splits.
"""

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from consilience.consensus.em import TruncatedNormalEM
from consilience.lm.annotators import TransformersAnnotator
from consilience.lm.answers import find_answers
from consilience.lm.language_model import LanguageModel, load_model
from consilience.realign.certificate import judge
from consilience.realign.objective import bernoulli_js
from consilience.realign.pair import Pair, Readable, build_trainer, locate, make_readable
from consilience.realign.reader import SuffixReader, _Suffixes
from consilience.realign.split import Split
from consilience.realign.target import leave_one_out
from consilience.realign.training import HEAD, LAMBDA0, TOKENS
from consilience.theories import pick_theories
from tests.benchmarks.realign_arms import JUDGED, REAL, THEORY
from tests.benchmarks.realign_pool import SMOLLM2, annotate, posts

RATE = 0.1
RATES, SPLITS = (0.02, 0.1), 3
POSTS = 200


class MeanReader(SuffixReader):
    """Reads the mean of the suffix's last hidden states in place of the last."""

    def states(self, items: Sequence[int], suffix: Tensor) -> Tensor:
        lengths = torch.tensor([self._lengths[item] for item in items])
        output = self._model.base_model(
            inputs_embeds=suffix.expand(len(items), -1, -1),
            position_ids=lengths[:, None] + torch.arange(len(suffix)),
            use_cache=False,
            attention=_Suffixes([self._blocks[item] for item in items]),
        )
        return output.last_hidden_state.float().mean(dim=1)


def report(name: str, scores: Tensor | np.ndarray, targets: np.ndarray) -> None:
    found, aims = torch.as_tensor(np.asarray(scores)), torch.as_tensor(targets)
    f1 = f1_score(targets > 0.5, np.asarray(scores) > 0.5, zero_division=0.0)
    print(f"| {name} | {float(bernoulli_js(found, aims).mean()):.4f} | {f1:.3f} |", flush=True)


def with_head(pair: Pair, readable: Readable, name: str, rates: dict[float, float]) -> None:
    """Head alone, then tokens at each learning rate with its lambda."""
    test = pair.splits[0].test
    for number, (rate, weight) in enumerate(rates.items()):
        config = REAL.model_copy(update={"token_learning_rate": rate, "cosine_weight": weight})
        arms = (HEAD, TOKENS) if number == 0 else (TOKENS,)
        trainer = build_trainer(readable, pair, config, arms=arms, splits=1)
        with trainer.reading():
            while not trainer.finished:
                print(json.dumps(trainer.step()), flush=True)
        for arm in arms:
            label = f"{name}, head alone" if arm == HEAD else f"{name}, head and tokens, rate {rate}, lambda {weight}"
            report(label, trainer.predictions[arm][test], pair.targets[test])


def own_answers(model: LanguageModel, pair: Pair, readable: Readable) -> None:
    """Tokens alone, read by the model's own yes and no."""
    prompts, _ = locate(model, pair)
    answers = find_answers(prompts.continuation, "yes_no", prompts.chat)
    output = model.model.get_output_embeddings().weight[answers.tokens].float()
    values = torch.tensor(list(answers.values.values()))
    suffix, part = readable.suffix, pair.splits[0]
    targets = torch.tensor(pair.targets, dtype=torch.float32)
    rows = suffix.originals.clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([rows], lr=RATE * float(rows.detach().square().mean().sqrt()), weight_decay=0.0)

    def score(items: list[int]) -> Tensor:
        return torch.softmax(readable.reader.states(items, suffix.with_rows(rows)) @ output.T, dim=-1) @ values

    @torch.no_grad()
    def scores(items: list[int]) -> Tensor:
        return torch.cat([score(items[start : start + 16]) for start in range(0, len(items), 16)])

    dev, test = part.dev.tolist(), part.test.tolist()
    with readable.reader.attending():
        report("own answers, as they are", scores(test), pair.targets[test])
        best, kept = float("inf"), torch.zeros(len(test))
        for epoch in range(REAL.epochs):
            order = np.random.default_rng([0, epoch]).permutation(part.train).tolist()
            for start in range(0, len(order), REAL.batch_size):
                batch = order[start : start + REAL.batch_size]
                optimiser.zero_grad()
                bernoulli_js(score(batch), targets[batch]).mean().backward()
                optimiser.step()
            js = float(bernoulli_js(scores(dev), targets[dev]).mean())
            print(f"own answers, epoch {epoch}: dev JS {js:.4f}", flush=True)
            if js < best:
                best, kept = js, scores(test)
    report(f"own answers, tokens alone, rate {RATE}", kept, pair.targets[test])


def confirm(pair: Pair, readable: Readable) -> None:
    """Head alone against head and tokens on three splits, all held-out items together, and each rate's paired gain."""
    kept: dict[str, list[np.ndarray]] = {"target": []}
    for seed in range(SPLITS):
        split = deal(seed)
        kept["target"].append(pair.targets[split.test])
        for number, rate in enumerate(RATES):
            config = REAL.model_copy(update={"token_learning_rate": rate})
            arms = (HEAD, TOKENS) if number == 0 else (TOKENS,)
            trainer = build_trainer(readable, replace(pair, splits=[split], seed=seed), config, arms=arms)
            with trainer.reading():
                while not trainer.finished:
                    trainer.step()
            for arm in arms:
                name = HEAD if arm == HEAD else f"tokens, rate {rate}"
                kept.setdefault(name, []).append(trainer.predictions[arm][split.test])
                report(f"seed {seed}, {name}", kept[name][-1], kept["target"][-1])
    together = {name: np.concatenate(parts) for name, parts in kept.items()}
    for rate in RATES:
        arms_of = {"raw": together[HEAD], HEAD: together[HEAD], TOKENS: together[f"tokens, rate {rate}"]}
        found = judge({**arms_of, LAMBDA0: arms_of[TOKENS]}, together["target"], 0.5)
        for what, gain in (("JS", found.js_gain), ("F1", found.f1_gain)):
            print(f"rate {rate}, {what} gain over the head alone {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")


def deal(seed: int) -> Split:
    """Half to train on, a quarter for dev, a quarter held out."""
    return Split(*map(np.sort, np.split(np.random.default_rng(seed).permutation(POSTS), [POSTS // 2, POSTS * 3 // 4])))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder holding the sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of realign_arms")
    parser.add_argument("--confirm", action="store_true")
    options = parser.parse_args()
    model = load_model(SMOLLM2)
    items, texts = posts(options.data, 600)
    frame = annotate(items, texts, pick_theories([THEORY, "utilitarianism"]), options.work)
    target = leave_one_out(frame, JUDGED, TruncatedNormalEM()).of(THEORY)
    shortest = sorted(range(len(texts)), key=lambda place: len(texts[place]))[:POSTS]
    aims = target[[items[place] for place in shortest]].to_numpy()
    annotator = TransformersAnnotator(annotator=JUDGED, kind="transformers", source=SMOLLM2)
    pair = Pair(annotator, THEORY, [texts[place] for place in shortest], aims, [deal(0)])
    readable = make_readable(model, pair, options.work, 8e9)
    print("| variant | held-out JS | held-out F1 |\n|---|---|---|")
    if options.confirm:
        confirm(pair, readable)
        return
    own_answers(model, pair, readable)
    with_head(pair, readable, "last state", {RATE: 1.0, 3 * RATE: 0.1})
    reader = copy.copy(readable.reader)
    reader.__class__ = MeanReader
    with_head(pair, replace(readable, reader=reader), "mean of the suffix's states", {RATE: 1.0})


if __name__ == "__main__":
    main()
