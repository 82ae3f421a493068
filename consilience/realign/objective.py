"""The loss of realignment and the head that it reads: arXiv 2506.14625, part "embedding optimisation"."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

_EPSILON = 1e-6
_MLP_WIDTH = 16


def bernoulli_js(probability: Tensor, target: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence of two Bernoulli laws, element by element, in nats: 0 to ln 2.

    $$JS(p, q) = \frac12 [KL(p \| m) + KL(q \| m)], \qquad m = \frac{p + q}{2}$$

    `probability` is kept 1e-6 away from 0 and 1, where its gradient with respect to a logit would vanish for good;
    `target` may be 0 or 1.
    """
    p = probability.clamp(_EPSILON, 1.0 - _EPSILON)
    m = 0.5 * (p + target)
    return 0.5 * (_kl(p, m) + _kl(target, m))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    yes = torch.xlogy(p, p) - torch.xlogy(p, q)
    no = torch.xlogy(1.0 - p, 1.0 - p) - torch.xlogy(1.0 - p, 1.0 - q)
    return yes + no


def cosine_distance(tokens: Tensor, originals: Tensor) -> Tensor:
    r"""Mean over the N rows of $1 - \cos(e_k, e_k^{original})$, from (N, width) each: 0 to 2."""
    return (1.0 - nn.functional.cosine_similarity(tokens, originals, dim=-1)).mean()


class Head(nn.Module):
    """Acceptability from the hidden state at the last position: a linear layer, or Linear-GELU-Linear of width 16.

    States are standardised first, with the mean and spread of the states that `fit_scale` saw. The last layer starts at
    zero, so that the head starts by answering the same to everything.

    Args:
        width: of the hidden states.
        kind: "linear" or "mlp".
        generator: decides the first layer of "mlp".
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, width: int, kind: Literal["linear", "mlp"], generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        layers: Sequence[nn.Module] = [nn.Linear(width, 1)]
        if kind == "mlp":
            first = nn.Linear(width, _MLP_WIDTH)
            nn.init.normal_(first.weight, std=width**-0.5, generator=generator)
            nn.init.zeros_(first.bias)
            layers = [first, nn.GELU(), nn.Linear(_MLP_WIDTH, 1)]
        nn.init.zeros_(layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*layers)

    def fit_scale(self, states: Tensor) -> None:
        """Take mean and spread from `states` (n, width)."""
        self.centre.copy_(states.mean(0))
        self.spread.copy_(states.std(0).clamp(min=1e-6))

    def forward(self, states: Tensor) -> Tensor:
        """(n, width) float32 to probabilities (n,)."""
        return torch.sigmoid(self.layers((states - self.centre) / self.spread).squeeze(-1))
