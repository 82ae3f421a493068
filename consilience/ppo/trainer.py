"""Proximal policy optimisation: one update at a time, on one process or on several that share the work."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from consilience.errors import UserError
from consilience.files import atomic_folder, write_json
from consilience.gradients import sum_over_workers
from consilience.optimiser_state import STATE_FILE, optimiser_tensors, restore_optimiser
from consilience.ppo import losses
from consilience.ppo.policy import Policy
from consilience.ppo.rewards import Reward, TokenReward, call_reward, call_token_reward
from consilience.ppo.rollout import (
    Constraint,
    Rollout,
    Sampler,
    generate,
    is_end,
    pad_left,
    policy_logits,
    repetition,
    response_tokens,
)
from consilience.ppo.settings import PPOConfig

Metrics = dict[str, float | None]

_PROMPTS, _SAMPLING, _MINIBATCHES = range(3)


@dataclass(frozen=True, slots=True)
class _Episodes:
    """Everything that an update learns from; per-token tensors are (b, max_new_tokens), `scores` (b,)."""

    rollout: Rollout
    log_probs: Tensor
    reference_log_probs: Tensor
    values: Tensor
    entropy: Tensor
    token_scores: Tensor
    scores: Tensor


class PPOTrainer:
    """PPO (Schulman et al. 2017) with a per-token KL penalty to the reference (Ziegler et al. 2019).

    Each update samples `batch_size` episodes, scores them, estimates advantages and takes `epochs` passes of
    minibatch steps. Where torch.distributed is initialised the workers share the episodes of every batch and
    minibatch: advantages are computed on the whole batch by each, gradients are summed, so n workers compute what one
    would, up to rounding. All chance comes from (seed, update), so a resumed run repeats the numbers of an
    uninterrupted one.

    Attributes:
        update: updates done.
        history: their metrics.
        kl_coef: the coefficient that the next update uses.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        reward: Reward,
        config: PPOConfig,
        token_reward: TokenReward | None = None,
        constraint: Constraint | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        """
        Args:
            prompts: token ids, drawn in shuffled passes.
            reward: scores whole responses.
            token_reward: scores single tokens besides.
            constraint: masks the logits, see `rollout.Constraint`.
            sampler: draws the responses instead of transformers; takes no constraint.

        Raises:
            UserError: no prompts, one that is empty or too long for the model, sizes that the workers cannot share,
                both a constraint and a sampler.
        """
        self.policy, self.prompts, self.config = policy, prompts, config
        self._reward, self._token_reward, self._constraint = reward, token_reward, constraint
        if constraint is not None and sampler is not None:
            raise UserError("constraint: given together with a sampler, which would not obey it; expected one of them")
        self._sample: Sampler = sampler or partial(generate, policy.base, constraint=constraint)
        self._rank, self._workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.update = 0
        self.history: list[Metrics] = []
        self.kl_coef = config.kl_coef
        self._optimiser = torch.optim.AdamW(policy.trainable.values(), lr=config.learning_rate, weight_decay=0)
        self._check()

    def step(self) -> Metrics:
        """One update. Returns its metrics.

        `reward` and `reward_sd` are mean and standard deviation of what the reward returned, `objective` what is
        maximised: reward and token scores less penalties and KL. These, `kl` (nats per episode), `entropy` (nats per
        token), `length` (tokens), `ended` (share with an end of text), `repetition` (of trigrams) and
        `explained_variance` (share of the returns' variance that the values foresaw) describe the episodes as sampled,
        before the update. Losses, clip fractions, `approx_kl` (old to new policy, nats per token) and `grad_norm` are
        means over the update's steps. `kl_coef` is the one used. None = undefined.

        Raises:
            UserError: the reward failed; nothing has changed.
        """
        started = time.perf_counter()
        episodes = self._collect()
        collected = time.perf_counter()
        mask, config = episodes.rollout.mask, self.config
        kl = losses.kl_estimate(episodes.log_probs, episodes.reference_log_probs, mask)
        ended = (is_end(self.policy.base, episodes.rollout.responses) & mask).any(1)
        scores = episodes.scores - config.missing_eos_penalty * ~ended
        rewards = losses.token_rewards(scores, episodes.token_scores, kl, mask, self.kl_coef)
        advantages, returns = losses.gae(rewards, episodes.values, mask, config.gamma, config.gae_lambda)
        explained = 1 - (returns - episodes.values)[mask].var(correction=0) / returns[mask].var(correction=0)
        if config.whiten_advantages:
            advantages = losses.whiten(advantages, mask)
        training = self._optimise(episodes, advantages, returns)
        self.update += 1
        kl_mean = float(kl.sum(1).mean())
        metrics: Metrics = {
            "update": self.update,
            "reward": float(episodes.scores.mean()),
            "reward_sd": float(episodes.scores.std(correction=0)),
            "kl": kl_mean,
            "kl_coef": self.kl_coef,
            "objective": float(rewards.sum(1).mean()),
            "entropy": float(losses.masked_mean(episodes.entropy, mask)),
            "length": float(mask.sum(1).double().mean()),
            "ended": float(ended.double().mean()),
            "repetition": repetition(episodes.rollout),
            "explained_variance": float(explained) if torch.isfinite(explained) else None,
            **training,
            "seconds_sampling": collected - started,
            "seconds_training": time.perf_counter() - collected,
        }
        if config.kl_target is not None:
            self.kl_coef = losses.adapt_kl_coef(self.kl_coef, kl_mean, config.kl_target, config.kl_gain)
        self.history.append(metrics)
        return metrics

    def save(self, folder: Path) -> None:
        """Write adapter, value head, optimiser state and counters (safetensors, JSON) as `folder`, whole or not at all.

        Raises:
            UserError: `folder` exists.
        """
        if folder.exists():
            raise UserError(f"{folder}: exists already; expected a new folder for a checkpoint")
        with atomic_folder(folder) as new:
            self.policy.save(new)
            save_file(optimiser_tensors(self._optimiser), new / STATE_FILE)
            counters = {"update": self.update, "kl_coef": self.kl_coef, "history": self.history}
            write_json(new / "trainer.json", {"config": self.config.model_dump(mode="json"), **counters})

    def load(self, folder: Path) -> None:
        """Go on from a folder that `save` wrote: the next update is the one that would have followed.

        Raises:
            UserError: not a checkpoint, or one of other settings (`updates` may differ).
        """
        try:
            counters = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: not a checkpoint of a PPO run: {error}") from None
        for key, value in self.config.model_dump(mode="json").items():
            if key != "updates" and counters["config"].get(key) != value:
                found = counters["config"].get(key)
                raise UserError(f"{folder}: made with {key} {found!r}; expected {value!r} as in this run's config")
        self.policy.load(folder)
        restore_optimiser(self._optimiser, load_file(folder / STATE_FILE))
        self.update, self.kl_coef, self.history = (counters[key] for key in ("update", "kl_coef", "history"))

    def _check(self) -> None:
        window = getattr(self.policy.base.config.get_text_config(), "max_position_embeddings", None)
        if not self.prompts:
            raise UserError("prompts: none; expected at least one")
        for place, prompt in enumerate(self.prompts):
            length = len(prompt) + self.config.sampling.max_new_tokens
            if not prompt:
                raise UserError(f"prompt {place}: empty; expected at least one token")
            if window is not None and length > window:
                raise UserError(f"prompt {place}: {length} tokens with its response; expected at most {window}")
        self.config.check_workers(self._workers)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, *key))

    def _collect(self) -> _Episodes:
        """Sample and score this worker's share of the batch; gather everyone's."""
        size, tokens = self.config.batch_size, self.config.sampling.max_new_tokens
        share = size // self._workers
        mine = slice(self._rank * share, (self._rank + 1) * share)
        device = self.policy.device
        chosen = [self.prompts[index] for index in self._prompt_indices()]
        prompts, prompt_mask = pad_left(chosen, self.policy.base.generation_config.pad_token_id, device)
        uniforms = torch.from_numpy(self._rng(_SAMPLING, self.update).random((size, tokens))).to(device)
        parts = [
            self._sample(prompts[rows], prompt_mask[rows], uniforms[rows], self.config.sampling)
            for rows in torch.split(torch.arange(size, device=device)[mine], self.config.generation_batch_size)
        ]
        responses = torch.cat([part.responses for part in parts])
        mask = torch.cat([part.mask for part in parts])
        rollout = Rollout(prompts[mine], prompt_mask[mine], responses, mask)
        scores, token_scores = self._score(rollout)
        log_probs, reference_log_probs, values, entropy, token_scores = self._gather(
            torch.stack([*self._measure(rollout), token_scores], dim=1)
        ).unbind(1)
        return _Episodes(
            Rollout(prompts, prompt_mask, self._gather(responses), self._gather(mask)),
            log_probs,
            reference_log_probs,
            values,
            entropy,
            token_scores,
            self._gather(scores),
        )

    def _prompt_indices(self) -> list[int]:
        first = self.update * self.config.batch_size
        passes, places = np.divmod(np.arange(first, first + self.config.batch_size), len(self.prompts))
        orders = {int(p): self._rng(_PROMPTS, int(p)).permutation(len(self.prompts)) for p in np.unique(passes)}
        return [int(orders[p][place]) for p, place in zip(passes.tolist(), places.tolist(), strict=True)]

    def _score(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Scores (b,) and token scores (b, r) of the user's rewards."""
        responses = response_tokens(rollout)
        shown = responses
        if self.config.reward_on == "prompt_and_response":
            prompts = [ids[mask].tolist() for ids, mask in zip(rollout.prompts, rollout.prompt_mask, strict=True)]
            shown = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        texts = self.policy.tokeniser.batch_decode(shown, skip_special_tokens=True)
        scores = torch.tensor(call_reward(self._reward, texts), device=self.policy.device)
        token_scores = torch.zeros(rollout.mask.shape, device=self.policy.device)
        if self._token_reward is not None:
            rows = call_token_reward(self._token_reward, responses)
            token_scores[rollout.mask] = torch.tensor([score for row in rows for score in row], device=scores.device)
        return scores, token_scores

    @torch.no_grad()
    def _measure(self, rollout: Rollout) -> Tensor:
        """Log-probs, reference log-probs, values and entropy of each token as sampled, (4, b, r)."""
        measured = torch.zeros(4, *rollout.mask.shape, device=self.policy.device)
        for rows in self._microbatches(rollout.mask, np.arange(len(rollout.mask))):
            part = rollout.take(rows)
            logits, values = self.policy.forward(part)
            logits = self._policy_logits(logits, part)
            entropy = losses.token_entropy(logits)
            log_probs = losses.token_log_probs(logits, part.responses)
            reference = self._policy_logits(self.policy.reference_logits(part), part)
            reference_log_probs = losses.token_log_probs(reference, part.responses)
            found = torch.stack([log_probs, reference_log_probs, values, entropy]) * part.mask
            measured[:, rows, : part.mask.shape[1]] = found
        return measured

    def _optimise(self, episodes: _Episodes, advantages: Tensor, returns: Tensor) -> Metrics:
        """All epochs over the batch. A minibatch's loss is its mean over all tokens, whoever computes them."""
        config, mask = self.config, episodes.rollout.mask
        totals = torch.zeros(5, device=self.policy.device)
        norms = []
        for epoch in range(config.epochs):
            order = self._rng(_MINIBATCHES, self.update, epoch).permutation(config.batch_size)
            for minibatch in order.reshape(-1, config.minibatch_size):
                tokens = mask[torch.from_numpy(minibatch)].sum()
                sums = torch.zeros_like(totals)
                for rows in self._microbatches(mask, minibatch[self._rank :: self._workers]):
                    loss, parts = self._losses(episodes, advantages, returns, rows)
                    (loss / tokens).backward()  # type: ignore[no-untyped-call]
                    sums += parts / tokens
                norm, sums = self._descend(sums)
                norms.append(norm)
                totals += sums
        names = ("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction", "approx_kl")
        means = (totals / len(norms)).tolist()
        return {**dict(zip(names, means, strict=True)), "grad_norm": sum(norms) / len(norms)}

    def _losses(self, episodes: _Episodes, advantages: Tensor, returns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the loss over the tokens of `rows`, and the sums that the metrics are made of."""
        config = self.config
        part = episodes.rollout.take(rows)
        mask = part.mask
        old_log_probs, old_values, advantages, returns = (
            x[rows, : mask.shape[1]] for x in (episodes.log_probs, episodes.values, advantages, returns)
        )
        logits, values = self.policy.forward(part)
        logits = self._policy_logits(logits, part)
        log_probs = losses.token_log_probs(logits, part.responses)
        policy_loss, clipped = losses.policy_loss(log_probs, old_log_probs, advantages, mask, config.clip)
        value_loss, value_clipped = losses.value_loss(values, old_values, returns, mask, config.value_clip)
        loss = policy_loss.sum() + config.value_coef * value_loss.sum()
        if config.entropy_coef:
            loss = loss - config.entropy_coef * (losses.token_entropy(logits) * mask).sum()
        change = losses.kl_estimate(old_log_probs, log_probs, mask)
        sums = torch.stack([x.detach().sum() for x in (policy_loss, value_loss, clipped, value_clipped, change)])
        return loss, sums

    def _policy_logits(self, logits: Tensor, part: Rollout) -> Tensor:
        return policy_logits(logits, part, self.config.sampling.temperature, self._constraint)

    def _microbatches(self, mask: Tensor, rows: npt.NDArray[Any]) -> Iterator[Tensor]:
        """`rows` in pieces that fit in memory, responses of like length together."""
        chosen = torch.from_numpy(rows).to(mask.device)
        by_length = chosen[mask[chosen].sum(1).argsort(stable=True)]
        yield from torch.split(by_length, self.config.microbatch_size)

    def _descend(self, sums: Tensor) -> tuple[float, Tensor]:
        """One optimiser step on the workers' summed gradients. Returns their norm, and `sums` over the workers."""
        parameters = list(self.policy.trainable.values())
        sums = sum_over_workers(parameters, sums)
        norm = clip_grad_norm_(parameters, self.config.max_grad_norm, error_if_nonfinite=True)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(norm), sums

    def _gather(self, share: Tensor) -> Tensor:
        """All workers' shares of a batch, in the order of its episodes."""
        if self._workers == 1:
            return share
        shares = [torch.empty_like(share) for _ in range(self._workers)]
        dist.all_gather(shares, share.contiguous())
        return torch.cat(shares)
