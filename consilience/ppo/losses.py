"""The formulas of PPO for language models: plain functions on tensors.

Shapes: b episodes, r response tokens, v vocabulary. A response is padded on its right; `mask` (b, r) is true on its
tokens, its end-of-text token included. Log-probabilities and KL are in nats. Results are zero outside the mask.
"""

import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn.functional import cross_entropy


def token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log pi(token | prefix), float32 (b, r), of `tokens` (b, r) under `logits` (b, r, v)."""
    return -cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape)


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy of each next-token distribution, float32 (b, r), from `logits` (b, r, v), -inf where forbidden."""
    return Categorical(logits=logits.float(), validate_args=False).entropy()  # type: ignore[no-untyped-call]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is true, a scalar."""
    return (values * mask).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Values (b, r) shifted to mean 0 and scaled to variance 1 over the mask."""
    centred = values - masked_mean(values, mask)
    return centred * torch.rsqrt(masked_mean(centred.square(), mask) + 1e-8) * mask


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor) -> Tensor:
    """Per-token estimate log pi - log pi_ref (b, r) on sampled tokens: unbiased, may be negative."""
    return (log_probs - reference_log_probs) * mask


def token_rewards(scores: Tensor, token_scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """R_t = token_scores_t - kl_coef kl_t + 1[t = T] scores, (b, r).

    Ziegler et al. 2019, equation 2, with the KL charged token by token. Its optimum is
    pi* proportional to pi_ref exp(total score / kl_coef).

    Args:
        scores: (b,) score of the whole response, paid at its last token T.
        token_scores: (b, r) scores of single tokens.
        kl: (b, r) from `kl_estimate`.
    """
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    return (token_scores - kl_coef * kl) * mask + scores[:, None] * last


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, both (b, r).

    A_t = delta_t + gamma lambda A_{t+1} with delta_t = R_t + gamma V_{t+1} - V_t (Schulman et al. 2016, equation 16),
    V after the last token being 0; returns are A + V.

    Args:
        rewards: (b, r) from `token_rewards`.
        values: (b, r) V of the state before each token is chosen.
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    advantage = next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * gae_lambda * advantage
        advantages[:, t], next_value = advantage, values[:, t]
    return advantages, advantages + values


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate max(-rho A, -clip(rho, 1 - clip, 1 + clip) A), rho = pi / pi_old, and where the clip bites.

    Schulman et al. 2017, equation 7. At rho = 1 its gradient is the policy gradient, -A grad log pi.

    Args:
        clip: half width of the trusted range of rho; None for no clipping.

    Returns:
        Loss (b, r) and a boolean (b, r).
    """
    ratio = ((log_probs - old_log_probs) * mask).exp()
    plain = -ratio * advantages
    if clip is None:
        return plain * mask, torch.zeros_like(mask)
    clipped = -ratio.clamp(1 - clip, 1 + clip) * advantages
    return torch.maximum(plain, clipped) * mask, (clipped > plain) & mask


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """Half the squared error of V, the worse of V and V held within `clip` of its old value, and where that bites.

    Args:
        clip: None for no clipping.

    Returns:
        Loss (b, r) and a boolean (b, r).
    """
    plain = (values - returns).square()
    if clip is None:
        return 0.5 * plain * mask, torch.zeros_like(mask)
    clipped = (old_values + (values - old_values).clamp(-clip, clip) - returns).square()
    return 0.5 * torch.maximum(plain, clipped) * mask, (clipped > plain) & mask


def adapt_kl_coef(kl_coef: float, kl: float, target: float, gain: float) -> float:
    """Proportional controller of the KL coefficient: grows while `kl` is above `target`, shrinks while below.

    beta <- beta (1 + gain clip(kl / target - 1, -0.2, 0.2)), Ziegler et al. 2019, section 2.2.

    Args:
        kl, target: nats per episode.
    """
    return kl_coef * (1 + gain * min(max(kl / target - 1, -0.2), 0.2))
