"""Training an agent for one value by PPO, and hearing it on questions that it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from consilience.ppo import losses
from consilience.ppo.policy import Policy
from consilience.ppo.rewards import Reward
from consilience.ppo.rollout import Rollout, Sampler, generate, is_end, pad_left, repetition, response_tokens
from consilience.ppo.settings import LoraSettings, PPOConfig, Rollouts
from consilience.ppo.trainer import PPOTrainer
from consilience.values.base import BaseConfig, load_own
from consilience.values.prompts import agent_prompt


@dataclass(frozen=True)
class AgentPlan:
    """All that a process needs to train an agent.

    Attributes:
        vllm: further arguments of `vllm.LLM`, where `rollouts` is vllm.
    """

    base: BaseConfig
    lora: LoraSettings
    ppo: PPOConfig
    rollouts: Rollouts = "transformers"
    vllm: dict[str, Any] = field(default_factory=dict)

    def policy(self) -> Policy:
        """A copy of the base with a fresh adapter."""
        loaded = load_own(self.base)
        return Policy(loaded.model, loaded.tokeniser, self.lora, self.ppo.seed)

    def prompts(self, policy: Policy, questions: Sequence[str]) -> list[list[int]]:
        """Questions as prompts, cut where they and an answer would not fit the window."""
        window = getattr(policy.base.config.get_text_config(), "max_position_embeddings", None)
        room = None if window is None else window - self.ppo.sampling.max_new_tokens
        return [agent_prompt(policy.tokeniser, question, room) for question in questions]


def build_trainer(plan: AgentPlan, questions: Sequence[str], reward: Reward) -> PPOTrainer:
    """A trainer of a fresh agent on `questions`.

    Raises:
        UserError: the model cannot be had, a blank question, or settings that do not fit.
    """
    policy = plan.policy()
    return PPOTrainer(policy, plan.prompts(policy, questions), reward, plan.ppo, sampler=_sampler(plan, policy))


def _sampler(plan: AgentPlan, policy: Policy) -> Sampler | None:
    if plan.rollouts == "transformers":
        return None
    # Here, because vLLM is an extra and takes long to import.
    from vllm import LLM

    from consilience.lm.sources import open_source
    from consilience.ppo.vllm_sampler import VllmSampler

    folder = open_source(plan.base.source, plan.base.revision).folder
    return VllmSampler(policy, LLM(str(folder), enable_lora=True, max_lora_rank=plan.lora.rank, **plan.vllm))


@dataclass(frozen=True, eq=False)
class Heard:
    """Answers to n held-out questions, drawn as in training, and what can be said of them without a reward.

    Attributes:
        texts: (n) answers.
        kl: (n,) nats from the base, log pi - log pi_ref of the answer: unbiased, may be negative; 0 for the base.
        length: (n,) tokens, the end of text included.
        ended: (n,) 1 where the answer ends by itself, else 0.
        repetition: (n,) share of an answer's trigrams that it has used before, NaN where it has none.
    """

    texts: list[str]
    kl: npt.NDArray[np.float64]
    length: npt.NDArray[np.float64]
    ended: npt.NDArray[np.float64]
    repetition: npt.NDArray[np.float64]


def hear(plan: AgentPlan, questions: Sequence[str], adapter: Path | None, seed: int) -> Heard:
    """Answers of the agent in `adapter` (a checkpoint of `PPOTrainer.save`), or of the base where that is None.

    The same seed draws with the same numbers for base and agents, so that they differ by what was learnt alone.
    """
    policy = plan.policy()
    if adapter is not None:
        policy.load(adapter)
    sampling, size = plan.ppo.sampling, plan.ppo.generation_batch_size
    prompts = plan.prompts(policy, questions)
    uniforms = torch.from_numpy(np.random.default_rng(seed).random((len(prompts), sampling.max_new_tokens)))
    parts: list[Heard] = []
    for start in range(0, len(prompts), size):
        ids, mask = pad_left(prompts[start : start + size], policy.base.generation_config.pad_token_id, policy.device)
        # A fresh adapter changes nothing: with its second factor zero, the policy is the base.
        rollout = generate(policy.base, ids, mask, uniforms[start : start + size].to(policy.device), sampling)
        parts.append(_describe(plan, policy, rollout, trained=adapter is not None))
    return Heard(
        [text for part in parts for text in part.texts],
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("kl", "length", "ended", "repetition")),
    )


def _describe(plan: AgentPlan, policy: Policy, rollout: Rollout, trained: bool) -> Heard:
    rows = [rollout.take(torch.tensor([row], device=policy.device)) for row in range(len(rollout.mask))]
    kl = _kl(plan, policy, rollout) if trained else np.zeros(len(rows))
    repeated = [repetition(row) for row in rows]
    tokens = policy.tokeniser.batch_decode(response_tokens(rollout), skip_special_tokens=True)
    return Heard(
        [text.strip() for text in tokens],
        kl,
        rollout.mask.sum(1).cpu().double().numpy(),
        (is_end(policy.base, rollout.responses) & rollout.mask).any(1).cpu().double().numpy(),
        np.array([np.nan if share is None else share for share in repeated]),
    )


@torch.no_grad()
def _kl(plan: AgentPlan, policy: Policy, rollout: Rollout) -> npt.NDArray[np.float64]:
    totals = []
    for rows in torch.split(torch.arange(len(rollout.mask), device=policy.device), plan.ppo.microbatch_size):
        part = rollout.take(rows)
        pair = (policy.forward(part)[0], policy.reference_logits(part))
        ours, base = (losses.token_log_probs(x / plan.ppo.sampling.temperature, part.responses) for x in pair)
        totals.append(losses.kl_estimate(ours, base, part.mask).sum(1))
    return torch.cat(totals).cpu().double().numpy()
