"""PPO in Ray Train: two workers that lose one on the way compute what one process computes, a bad reward stops it."""

import math
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from ray import cloudpickle
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from actors.ppo_worker import WorkersConfig, train_ppo
from consilience.errors import UserError
from consilience.ppo.policy import Policy
from consilience.ppo.rollout import SamplingConfig
from consilience.ppo.trainer import Metrics, PPOConfig, PPOTrainer

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test

WORDS = ["<pad>", "<end>", *"abcdefgh"]
CONFIG = PPOConfig(
    updates=4,
    batch_size=16,
    minibatch_size=8,
    microbatch_size=4,
    epochs=2,
    learning_rate=1e-3,
    sampling=SamplingConfig(max_new_tokens=4),
    kl_target=1.0,
)


class Reward:
    """Later letters are worth more. In its third update it kills its worker, once, or goes wrong for good."""

    def __init__(self, kill: Path | None = None, spoilt: bool = False) -> None:
        self.kill, self.spoilt, self.calls = kill, spoilt, 0

    def __call__(self, texts: list[str]) -> list[float]:
        self.calls += 1
        if self.kill is not None and self.calls == 3 and not self.kill.exists():
            self.kill.touch()
            os._exit(1)
        if self.spoilt and self.calls == 3:
            return [math.nan] * len(texts)
        return [sum(WORDS.index(word) / 10 for word in text.split()) for text in texts]


def build(reward: Reward) -> PPOTrainer:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    words = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokeniser = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
    return PPOTrainer(Policy(model.eval(), tokeniser), [[2], [3, 4], [5, 6, 7]], reward, CONFIG)


def comparable(metrics: Metrics) -> Metrics:
    return {name: value for name, value in metrics.items() if not name.startswith("seconds")}


@pytest.mark.timeout(180)
def test_two_workers_equal_one_even_when_one_dies(cluster: None, tmp_path: Path) -> None:
    alone = build(Reward())
    expected = [comparable(alone.step()) for _ in range(CONFIG.updates)]
    trained = train_ppo(
        partial(build, Reward(kill=tmp_path / "killed")),
        WorkersConfig(workers=2, checkpoint_every=1, max_failures=1),
        tmp_path,
        "two-workers",
    )
    assert (tmp_path / "killed").exists()
    assert len(trained.history) == CONFIG.updates
    for ours, theirs in zip(trained.history, expected, strict=True):
        assert comparable(ours) == pytest.approx(theirs, abs=1e-5)
    with trained.checkpoint.as_directory() as folder:
        adapter = load_file(Path(folder) / "adapter_model.safetensors")
    for name, weights in adapter.items():
        theirs = alone.policy.trainable[name.replace(".weight", ".default.weight")]
        torch.testing.assert_close(weights, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.timeout(120)
def test_a_bad_reward_is_one_line_and_keeps_the_checkpoint(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reward Reward returned nan at position 0; expected a finite number"):
        train_ppo(
            partial(build, Reward(spoilt=True)), WorkersConfig(checkpoint_every=1, max_failures=0), tmp_path, "spoilt"
        )
    (kept,) = (tmp_path / "spoilt").glob("checkpoint_*")
    whole, resumed = build(Reward()), build(Reward())
    expected = [comparable(whole.step()) for _ in range(3)]
    resumed.load(kept)
    assert [comparable(metrics) for metrics in resumed.history] == expected[:2]
    assert comparable(resumed.step()) == expected[2]
