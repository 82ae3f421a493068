"""What a predicted distribution over answers loses against people's votes, item by item.

Both take the logarithm of the restricted, renormalised distribution. The gradient of the second with respect to the
Dirichlet's parameters is checked against the closed form in the tests.
"""

import torch
from torch import Tensor

_LARGE = 1e8
"""From here on lgamma(a + n) - lgamma(a) loses its digits in float64, and its expansion in n / a is exact enough."""


def soft_cross_entropy(log_p: Tensor, votes: Tensor) -> Tensor:
    """(n,) -sum_k h_k ln p_k in nats, with h the shares of the votes (Lourie et al. 2021, xentropy-soft).

    Args:
        log_p: (n, k) natural logarithms of probabilities.
        votes: (n, k) counts or shares, at least one above 0 in each row.
    """
    shares = votes / votes.sum(-1, keepdim=True)
    return -torch.where(shares > 0, shares * log_p, 0.0).sum(-1)


def dirichlet_multinomial_nll(log_p: Tensor, votes: Tensor, log_concentration: Tensor | float) -> Tensor:
    """(n,) -ln P(votes | Dirichlet(s p)) in nats, the votes taken in order: no multinomial coefficient.

    lgamma(A + N) - lgamma(A) - sum_k [lgamma(a_k + n_k) - lgamma(a_k)], a = s p, A = s (Lourie et al. 2021). Towards
    s = 0 it is -ln p_k for unanimous votes and infinite for split ones, towards infinity N times the cross-entropy.
    Computed in float64 from ln a, so that both ends keep their digits.

    Args:
        log_p: (n, k) natural logarithms of probabilities.
        votes: (n, k) counts, fractions allowed.
        log_concentration: ln s.
    """
    s = torch.as_tensor(log_concentration, dtype=torch.float64, device=log_p.device)
    counts = votes.double()
    total = counts.sum(-1)
    rising = _log_rising(log_p.double() + s, counts).sum(-1)
    return _log_rising(s.expand_as(total), total) - rising


def _log_rising(log_a: Tensor, n: Tensor) -> Tensor:
    """ln Gamma(a + n) / Gamma(a); exactly 0 where n is 0, which has no gradient either."""
    a = log_a.clamp(max=700.0).exp()
    small = a < _LARGE
    near = torch.where(small, a, 1.0)
    # Gamma(a) = Gamma(a + 1) / a keeps ln a exact where a itself is next to nothing.
    exact = log_a + torch.lgamma(near + n) - torch.lgamma(near + 1.0)
    far = torch.where(small, _LARGE, a)
    expanded = n * log_a + n * (n - 1.0) / (2.0 * far)
    return torch.where(n > 0, torch.where(small, exact, expanded), 0.0)
