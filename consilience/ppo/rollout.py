"""Sampling responses from a language model, and what can be said of them without a reward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, TopKLogitsWarper, TopPLogitsWarper

from consilience.errors import UserError
from consilience.ppo.settings import SamplingConfig

Constraint = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Constrained decoding: (prompts (b, p), responses so far (b, t), logits (b, v)) -> logits, -inf where not allowed.

Prompts are left-padded and p may differ between calls. It is applied both while sampling and while training, so that
policy and reference are the constrained ones. Rows that have ended are passed too; what it returns for them is not
used. It must allow at least one token in every other row.
"""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Prompts padded on the left, responses on the right.

    Attributes:
        prompts: (b, p) token ids.
        prompt_mask: (b, p) true on tokens, false on padding.
        responses: (b, r) token ids.
        mask: (b, r) true up to and including the first end-of-text token.
    """

    prompts: Tensor
    prompt_mask: Tensor
    responses: Tensor
    mask: Tensor

    def take(self, rows: Tensor) -> "Rollout":
        """Some of the rows, without the columns that are padding in all of them."""
        left = int(self.prompt_mask[rows].any(0).long().argmax())
        right = int(self.mask[rows].any(0).sum())
        return Rollout(
            self.prompts[rows, left:],
            self.prompt_mask[rows, left:],
            self.responses[rows, :right],
            self.mask[rows, :right],
        )


Sampler = Callable[[Tensor, Tensor, Tensor, SamplingConfig], Rollout]
"""What draws one response per prompt: (prompts, prompt_mask, uniforms, sampling) as in `generate`."""


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token lists as one (b, p) tensor and its mask, both on `device`."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    length = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, torch.arange(width, device=device) >= width - length[:, None]


def generate(
    model: PreTrainedModel,
    prompts: Tensor,
    prompt_mask: Tensor,
    uniforms: Tensor,
    sampling: SamplingConfig,
    constraint: Constraint | None = None,
) -> Rollout:
    """Draw one response per prompt.

    Args:
        model: its `generation_config` names the end-of-text and padding tokens.
        prompts, prompt_mask: (b, p) from `pad_left`.
        uniforms: (b, max_new_tokens) in [0, 1), what chance decides: the same numbers give the same response,
            whatever the other rows of the batch.

    Raises:
        UserError: the constraint forbids every token.
    """
    left = int(prompt_mask.any(0).long().argmax())
    draw = _Draw(model, prompts.shape[1] - left, uniforms, sampling, constraint)
    with torch.no_grad():
        ids = model.generate(  # type: ignore[operator]
            input_ids=prompts[:, left:],
            attention_mask=prompt_mask[:, left:].long(),
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList([draw]),
        )
    responses = ids[:, prompts.shape[1] - left :]
    missing = sampling.max_new_tokens - responses.shape[1]
    responses = pad(responses, (0, missing), value=model.generation_config.pad_token_id)
    ends = is_end(model, responses).long()
    return Rollout(prompts, prompt_mask, responses, ends.cumsum(1) - ends == 0)


def is_end(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Where `tokens` are end-of-text tokens."""
    ends = model.generation_config.eos_token_id
    return torch.isin(tokens, torch.tensor(ends, device=tokens.device, dtype=tokens.dtype))


class _Draw(LogitsProcessor):
    """Leaves only the token at which the cumulative probability passes the row's uniform number."""

    def __init__(
        self,
        model: PreTrainedModel,
        width: int,
        uniforms: Tensor,
        sampling: SamplingConfig,
        constraint: Constraint | None,
    ) -> None:
        self._model, self._width, self._uniforms, self._constraint = model, width, uniforms, constraint
        self._temperature = sampling.temperature
        self._warpers: list[LogitsProcessor] = []
        if sampling.top_k is not None:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p is not None:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        prompts, responses = input_ids[:, : self._width], input_ids[:, self._width :]
        logits = scores / self._temperature
        if self._constraint is not None:
            live = ~is_end(self._model, responses).any(1, keepdim=True)
            logits = torch.where(live, self._constraint(prompts, responses, logits), logits)
            if not (logits > -torch.inf).any(1).all():
                raise UserError(f"constraint: forbids every token at position {responses.shape[1]} of a response")
        for warper in self._warpers:
            logits = warper(input_ids, logits)
        cumulative = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
        passed = self._uniforms[:, responses.shape[1], None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, passed, right=True)
        return torch.full_like(logits, -torch.inf).scatter_(1, token, 0)


def policy_logits(logits: Tensor, rollout: Rollout, temperature: float, constraint: Constraint | None) -> Tensor:
    """Logits (b, r, v) of the distribution that responses are drawn from, given the model's own."""
    logits = logits / temperature
    if constraint is None:
        return logits
    prompts, responses, mask = rollout.prompts, rollout.responses, rollout.mask
    steps = [constraint(prompts, responses[:, :t], logits[:, t]) for t in range(logits.shape[1])]
    return torch.where(mask[:, :, None], torch.stack(steps, dim=1), logits)


def repetition(rollout: Rollout, n: int = 3) -> float | None:
    """Share of a response's n-grams that it has used before, mean over responses of n tokens and more, in [0, 1].

    None where no response is that long.
    """
    shares = []
    for tokens in response_tokens(rollout):
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        if grams:
            shares.append(1 - len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else None


def response_tokens(rollout: Rollout) -> list[list[int]]:
    """Token ids of each response, its end-of-text token included."""
    return [ids[mask].tolist() for ids, mask in zip(rollout.responses, rollout.mask, strict=True)]
