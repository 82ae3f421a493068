"""What theory tokens are worth on real posts, and whether they undo an inversion that was planted: Markdown tables.

    python -m tests.benchmarks.realign_arms --data ../shared/data --work runs/realign-arms [--planted]

600 posts of ETHICS `cm_ambig`, the shortest, judged by SmolLM2-135M under deontology, against the consensus of four
others (two personas of SmolLM2, two of Gemma 3 270M). Four arms on the same splits (80/10/10 by item), three seeds: the
raw model, a head alone, head and tokens, the same without the cosine term. Scores that are done are kept in `--work`.

`--planted`: SmolLM2's own deontology rows are first trained, and written into its weights, so that its answers yes and
no turn round; the model is then realigned with its own former answers as target, which are the right ones.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from consilience.consensus.em import TruncatedNormalEM
from consilience.lm.annotators import TransformersAnnotator
from consilience.lm.answers import find_answers
from consilience.lm.language_model import LanguageModel, load_model
from consilience.realign.certificate import judge
from consilience.realign.gate import assess
from consilience.realign.objective import bernoulli_js
from consilience.realign.pair import Pair, Readable, build_trainer, locate, make_readable
from consilience.realign.settings import GateConfig, SplitConfig, TrainingConfig
from consilience.realign.split import split_items
from consilience.realign.target import leave_one_out
from consilience.realign.training import ARMS
from consilience.theories import pick_theories
from tests.benchmarks.realign_pool import SMOLLM2, annotate, posts

Floats = NDArray[np.float64]
THEORY, JUDGED = "deontology", "smollm2"
REAL, PLANTED = TrainingConfig(epochs=4, patience=2), TrainingConfig(epochs=6, patience=2)
PLANTED_POSTS, PLANT_EPOCHS, PLANT_RATE = 200, 12, 0.1


def arms(
    pair: Pair, readable: Readable, raw: Floats, seeds: int, work: Path, name: str, config: TrainingConfig
) -> list[dict[str, Floats]]:
    """For each seed the scores of the arms on its held-out items, with "raw" and "target"; kept in `work`."""
    found = []
    for seed in range(seeds):
        path = work / f"{name}-{seed}.json"
        if not path.exists():
            started = time.perf_counter()
            splits = split_items(len(pair.texts), SplitConfig(cross_fit_below=0), seed)
            trainer = build_trainer(readable, replace(pair, splits=splits, seed=seed), config)
            with trainer.reading():
                while not trainer.finished:
                    metrics = trainer.step()
                    print(seed, json.dumps(metrics), f"{time.perf_counter() - started:.0f} s", flush=True)
            test = splits[0].test
            scores = {arm: trainer.predictions[arm][test].tolist() for arm in ARMS}
            scores |= {"raw": raw[test].tolist(), "target": pair.targets[test].tolist()}
            path.write_text(json.dumps(scores), encoding="utf-8")
        found.append({arm: np.array(values) for arm, values in json.loads(path.read_text()).items()})
    return found


def show(found: list[dict[str, Floats]], title: str, tau: float = 0.5) -> None:
    """Mean over seeds and, over all held-out items together, gains with their bootstrap intervals."""
    per_seed = [judge({arm: s[arm] for arm in ("raw", *ARMS)}, s["target"], tau) for s in found]
    together = {arm: np.concatenate([scores[arm] for scores in found]) for arm in found[0]}
    pooled = judge({arm: together[arm] for arm in ("raw", *ARMS)}, together["target"], tau)
    print(f"\n{title}; {len(found)} seeds, {pooled.items} held-out judgements\n")
    print("| arm | F1, mean of seeds (each) | JS, mean of seeds (each) | accuracy |\n|---|---|---|---|")
    for arm in ("raw", *ARMS):
        f1, js = ([getattr(seed, what)[arm].value for seed in per_seed] for what in ("f1", "js"))
        right = np.mean((together[arm] > tau) == (together["target"] > tau))
        each = [", ".join(f"{value:.3f}" for value in values) for values in (f1, js)]
        print(f"| {arm} | {np.mean(f1):.3f} ({each[0]}) | {np.mean(js):.4f} ({each[1]}) | {right:.3f} |")
    for label, gain in (
        ("tokens over head alone, JS", pooled.js_gain),
        ("tokens over head alone, F1", pooled.f1_gain),
        ("tokens over raw, JS", pooled.js_gain_raw),
        ("tokens over raw, F1", pooled.f1_gain_raw),
    ):
        print(f"| {label} | {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] | | |")


def real(model: LanguageModel, data: Path, work: Path, seeds: int) -> None:
    items, texts = posts(data, 600)
    frame = annotate(items, texts, pick_theories([THEORY, "utilitarianism"]), work)
    target = leave_one_out(frame, JUDGED, TruncatedNormalEM())
    report = assess(target, THEORY, GateConfig())
    print(f"gate: {report}")
    own = frame[(frame["annotator"] == JUDGED) & (frame["theory"] == THEORY)].set_index("item_id")["score"]
    raw, aims = own[items].to_numpy(), target.of(THEORY)[items].to_numpy()
    print(f"share acceptable: target {np.mean(aims > 0.5):.2f}, raw {np.mean(raw > 0.5):.2f}; raw sd {raw.std():.3f}")
    annotator = TransformersAnnotator(annotator=JUDGED, kind="transformers", source=SMOLLM2)
    pair = Pair(annotator, THEORY, texts, aims, [])
    started = time.perf_counter()
    readable = make_readable(model, pair, work, 8e9)
    print(f"prefix cache in {time.perf_counter() - started:.0f} s")
    show(
        arms(pair, readable, raw, seeds, work, "arms", REAL), "SmolLM2-135M under deontology, consensus of four others"
    )


def planted(model: LanguageModel, data: Path, work: Path, seeds: int) -> None:
    _, texts = posts(data, PLANTED_POSTS)
    annotator = TransformersAnnotator(annotator=JUDGED, kind="transformers", source=SMOLLM2)
    pair = Pair(annotator, THEORY, texts, np.full(len(texts), 0.5), [])
    prompts, word = locate(model, pair)
    answers = find_answers(prompts.continuation, "yes_no", prompts.chat)
    output = model.model.get_output_embeddings().weight[answers.tokens].float()
    values = torch.tensor(list(answers.values.values()))

    def score(states: torch.Tensor) -> torch.Tensor:
        return torch.softmax(states @ output.T, dim=-1) @ values

    readable = make_readable(model, pair, work, 8e9)
    reader, suffix = readable.reader, readable.suffix
    batches = [list(range(start, min(start + 16, len(texts)))) for start in range(0, len(texts), 16)]

    def scores(rows: torch.Tensor) -> Floats:
        with torch.no_grad(), reader.attending():
            return torch.cat([score(reader.states(b, suffix.with_rows(rows))) for b in batches]).double().numpy()

    before = scores(suffix.originals)
    tau = float(np.median(before))
    aim = torch.tensor(np.clip(tau - 4.0 * (before - tau), 0.02, 0.98), dtype=torch.float32)
    rows = suffix.originals.clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([rows], weight_decay=0.0)
    size = float(rows.detach().square().mean().sqrt())
    lowest = 1.0
    for epoch in range(PLANT_EPOCHS):
        optimiser.param_groups[0]["lr"] = PLANT_RATE * size * (1.0 - epoch / PLANT_EPOCHS)
        with reader.attending():
            for batch in batches:
                optimiser.zero_grad()
                loss = bernoulli_js(score(reader.states(batch, suffix.with_rows(rows))), aim[batch]).mean()
                loss.backward()
                optimiser.step()
        said = scores(rows.detach())
        r = float(np.corrcoef(before, said)[0, 1])
        if r < lowest:
            lowest, after, turned_rows = r, said, rows.detach().clone()
        print(f"planting, epoch {epoch}: r with the former answers {r:+.3f}", flush=True)
    with torch.no_grad():  # real weights: tied output embeddings change with them
        model.model.get_input_embeddings().weight[list(word.ids)] = turned_rows.to(model.model.dtype)
    inverted = make_readable(model, pair, work, 8e9)
    spoilt = replace(pair, targets=np.clip(tau + 4.0 * (before - tau), 0.02, 0.98))
    turned = np.median(after)
    print(
        f"labels (above the median) that agree with the former ones: {np.mean((before > tau) == (after > turned)):.3f}"
    )
    raw = np.clip(0.5 + after - turned, 0.0, 1.0)
    aligned = replace(spoilt, targets=np.clip(0.5 + spoilt.targets - tau, 0.0, 1.0))
    show(
        arms(aligned, inverted, raw, seeds, work, "planted", PLANTED),
        "SmolLM2-135M with planted inversion, target: its former answers",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder holding the sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is done already")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--planted", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    (planted if options.planted else real)(load_model(SMOLLM2), options.data, options.work, options.seeds)


if __name__ == "__main__":
    main()
