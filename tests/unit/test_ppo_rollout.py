"""Sampling: the right distribution, the right masks, the same response whatever the batch."""

import math

import pytest
import torch
from ppo_models import END, PAD, WORDS, tiny_model, tiny_policy, tiny_tokeniser
from torch import Tensor

from consilience.errors import UserError
from consilience.ppo.policy import LoraSettings, Policy
from consilience.ppo.rollout import Rollout, SamplingConfig, generate, pad_left, policy_logits, repetition

PROMPTS = [[2, 3, 4], [5], [6, 7]]


def sample(policy: Policy, uniforms: Tensor, prompts: list[list[int]] = PROMPTS, **options: float) -> Rollout:
    ids, mask = pad_left(prompts, PAD, policy.device)
    sampling = SamplingConfig.model_validate({"max_new_tokens": uniforms.shape[1], **options})
    return generate(policy.base, ids, mask, uniforms, sampling)


def test_prompts_are_padded_on_the_left() -> None:
    ids, mask = pad_left(PROMPTS, PAD, torch.device("cpu"))
    assert ids.tolist() == [[2, 3, 4], [PAD, PAD, 5], [PAD, 6, 7]]
    assert mask.tolist() == [[True, True, True], [False, False, True], [False, True, True]]


def test_a_response_does_not_depend_on_its_batch() -> None:
    policy = tiny_policy()
    uniforms = torch.rand(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = sample(policy, uniforms)
    for row, prompt in enumerate(PROMPTS):
        alone = sample(policy, uniforms[row : row + 1], [prompt])
        assert alone.responses[alone.mask].tolist() == together.responses[row][together.mask[row]].tolist()


def test_mask_ends_with_the_first_end_of_text() -> None:
    policy = tiny_policy()
    policy.base.generation_config.eos_token_id = [END, 4]  # a model may have several
    rollout = sample(policy, torch.rand(200, 8, dtype=torch.float64), [[2]] * 200)
    for tokens, mask in zip(rollout.responses.tolist(), rollout.mask.tolist(), strict=True):
        ends = [place for place, token in enumerate(tokens) if token in (END, 4)]
        length = min([place + 1 for place in ends], default=8)
        assert mask == [place < length for place in range(8)]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_policy(temperature: float) -> None:
    policy, n = tiny_policy(), 20_000
    uniforms = torch.rand(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rollout = sample(policy, uniforms, [[2, 3]] * n, temperature=temperature)
    with torch.no_grad():
        logits, _ = policy.forward(rollout.take(torch.tensor([0])))
    law = (logits[0, 0] / temperature).softmax(-1)
    seen = torch.bincount(rollout.responses[:, 0], minlength=len(WORDS)) / n
    assert float((seen - law).abs().sum() / 2) < 3 * math.sqrt(len(WORDS) / n)


def test_top_k_and_top_p_truncate() -> None:
    policy = tiny_policy()
    uniforms = torch.rand(500, 1, dtype=torch.float64)
    logits, _ = policy.forward(sample(policy, uniforms[:1], [[2]]))
    order = logits[0, 0].argsort(descending=True)
    assert set(sample(policy, uniforms, [[2]] * 500, top_k=2).responses.flatten().tolist()) == set(order[:2].tolist())
    assert sample(policy, uniforms, [[2]] * 500, top_p=0.01).responses.unique().tolist() == [int(order[0])]


def test_the_model_s_own_generation_settings_do_not_leak_in() -> None:
    base = tiny_model()
    base.generation_config.update(repetition_penalty=50.0, no_repeat_ngram_size=1, min_new_tokens=8)
    uniforms = torch.rand(50, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plain = sample(tiny_policy(), uniforms, [[2]] * 50)
    assert torch.equal(sample(Policy(base, tiny_tokeniser(), LoraSettings()), uniforms, [[2]] * 50).mask, plain.mask)


def only_after(prompts: Tensor, responses: Tensor, logits: Tensor) -> Tensor:
    """Allows a word and the one after it in the vocabulary, never the end; forbids all once a row has ended."""
    ids = torch.cat([prompts, responses], dim=1)
    allowed = torch.zeros_like(logits, dtype=torch.bool)
    for row, last in enumerate(ids[:, -1].tolist()):
        if last > END:
            allowed[row, last] = allowed[row, last + 1 if last + 1 < len(WORDS) else END] = True
    return logits.masked_fill(~allowed, -torch.inf)


def test_constrained_sampling_and_constrained_policy_agree() -> None:
    policy = tiny_policy()
    ids, mask = pad_left([[8]] * 300, PAD, policy.device)
    sampling = SamplingConfig(max_new_tokens=6)
    rollout = generate(policy.base, ids, mask, torch.rand(300, 6, dtype=torch.float64), sampling, only_after)
    for tokens in (row[kept].tolist() for row, kept in zip(rollout.responses, rollout.mask, strict=True)):
        for before, after in zip([8, *tokens], tokens, strict=False):
            assert after in (before, before + 1 if before + 1 < len(WORDS) else END)
    logits = policy_logits(policy.forward(rollout)[0], rollout, 1.0, only_after)
    chosen = logits.log_softmax(-1).gather(2, rollout.responses[:, :, None])[:, :, 0]
    assert bool(chosen[rollout.mask].isfinite().all())
    assert int((logits[rollout.mask] > -torch.inf).sum(-1).max()) == 2


def test_a_constraint_that_forbids_everything_is_named() -> None:
    policy = tiny_policy()
    ids, mask = pad_left([[2]], PAD, policy.device)
    with pytest.raises(UserError, match="constraint: forbids every token at position 0"):
        generate(
            policy.base,
            ids,
            mask,
            torch.rand(1, 2),
            SamplingConfig(max_new_tokens=2),
            lambda prompts, responses, logits: logits.fill_(-torch.inf),
        )


def test_repetition() -> None:
    responses = torch.tensor([[2, 2, 2, 2, 2], [2, 3, 4, 5, 6], [2, 3, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    prompts = torch.zeros(3, 1)
    assert repetition(Rollout(prompts, prompts.bool(), responses, mask)) == pytest.approx((2 / 3 + 0) / 2)
    assert repetition(Rollout(prompts[2:], prompts[2:].bool(), responses[2:], mask[2:])) is None
