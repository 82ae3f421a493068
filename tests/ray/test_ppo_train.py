"""PPO in Ray Train: killed, stopped by a bad reward and resumed, on two workers and on one, it computes the same."""

import json
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

from actors.ppo_worker import PPOWorkersConfig, train_ppo
from consilience.errors import UserError
from consilience.ppo.policy import Policy
from consilience.ppo.rollout import SamplingConfig
from consilience.ppo.trainer import Metrics, PPOConfig, PPOTrainer

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test

pytestmark = pytest.mark.chaos

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
    """Later letters are worth more. With a file it kills its worker at its third call, and restarted it soon fails."""

    def __init__(self, killed: Path | None = None) -> None:
        self.killed, self.calls = killed, 0

    def __call__(self, texts: list[str]) -> list[float]:
        self.calls += 1
        if self.killed is not None and self.calls == 3 and not self.killed.exists():
            self.killed.touch()
            os._exit(1)
        if self.killed is not None and self.calls == 2 and self.killed.exists():
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


@pytest.mark.timeout(400)
def test_a_run_outlives_a_killed_worker_and_a_bad_reward(cluster: None, tmp_path: Path) -> None:
    """Two workers lose one, go on, stop at a bad reward; one worker finishes. The numbers are one process's."""
    alone = build(Reward())
    expected = [comparable(alone.step()) for _ in range(CONFIG.updates)]
    killed = tmp_path / "killed"
    two = PPOWorkersConfig(workers=2, checkpoint_every=1, max_failures=1)
    with pytest.raises(UserError, match="reward Reward returned nan at position 0; expected a finite number"):
        train_ppo(partial(build, Reward(killed)), two, tmp_path, "run")
    assert killed.exists()
    kept = [json.loads(path.read_text())["history"] for path in (tmp_path / "run").glob("checkpoint_*/trainer.json")]

    trained = train_ppo(partial(build, Reward()), PPOWorkersConfig(), tmp_path, "run")
    assert len(trained.history) == CONFIG.updates
    assert any(trained.history[: len(history)] == history for history in kept), "it began anew"
    for ours, theirs in zip(trained.history, expected, strict=True):
        assert comparable(ours) == pytest.approx(theirs, abs=1e-5)
    assert train_ppo(partial(build, Reward()), PPOWorkersConfig(), tmp_path, "run") == trained, "a finished run is kept"
    adapter = load_file(trained.checkpoint / "adapter_model.safetensors")
    for name, weights in adapter.items():
        theirs = alone.policy.trainable[name.replace(".weight", ".default.weight")]
        torch.testing.assert_close(weights, theirs, atol=1e-5, rtol=1e-4)
