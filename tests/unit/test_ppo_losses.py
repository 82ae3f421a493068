"""The formulas of PPO against numbers worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from consilience.ppo import losses

MASK = torch.tensor([[True, True, True], [True, False, False]])


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_log_probs_and_entropy_of_a_known_distribution() -> None:
    logits = torch.tensor([[[0.5, 0.25, 0.25], [1.0, 1e-30, 1e-30]]]).log()
    log_probs = losses.token_log_probs(logits, torch.tensor([[1, 0]]))
    torch.testing.assert_close(log_probs, torch.tensor([[math.log(0.25), 0.0]]))
    torch.testing.assert_close(losses.token_entropy(logits), torch.tensor([[1.5 * math.log(2), 0.0]]))


def test_a_forbidden_token_has_no_entropy_and_no_gradient() -> None:
    logits = torch.tensor([[[0.0, 0.0, -torch.inf]]], requires_grad=True)
    assert losses.token_entropy(logits).item() == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(losses.token_log_probs(logits, torch.tensor([[0]])).sum(), logits)
    assert gradient.tolist() == [[[0.5, -0.5, 0.0]]]


def test_gradient_of_the_entropy() -> None:
    """dH/dx_i = -p_i (log p_i + H), and 0 at a forbidden token."""
    probabilities = torch.tensor([[[0.5, 0.25, 0.25, 0.0]]])
    logits = probabilities.log().requires_grad_()
    (gradient,) = torch.autograd.grad(losses.token_entropy(logits).sum(), logits)
    expected = torch.tensor([[[-0.25, 0.125, 0.125, 0.0]]]) * math.log(2)
    torch.testing.assert_close(gradient, expected)


def test_kl_and_rewards() -> None:
    kl = losses.kl_estimate(rows([-1, -2, -3], [-1, 9, 9]), rows([-1.5, -1, -3], [-3, 0, 0]), MASK)
    assert kl.tolist() == [[0.5, -1, 0], [2, 0, 0]]
    token_scores = rows([0, 0.25, 0], [0, 7, 7])
    rewards = losses.token_rewards(torch.tensor([2.0, 3.0]), token_scores, kl, MASK, 0.1)
    torch.testing.assert_close(rewards, rows([-0.05, 0.35, 2], [2.8, 0, 0]))


def test_gae() -> None:
    """gamma 0.5, lambda 0.5: deltas are 1 + .5(2) - 4 = -2, 2 + .5(6) - 2 = 3, 4 - 6 = -2, and 1 - 3 = -2."""
    rewards, values = rows([1, 2, 4], [1, 0, 0]), rows([4, 2, 6], [3, 9, 9])
    advantages, returns = losses.gae(rewards, values, MASK, 0.5, 0.5)
    assert advantages.tolist() == [[-2 + 0.25 * 2.5, 3 + 0.25 * -2, -2], [-2, 0, 0]]
    assert returns.tolist() == [[2.625, 4.5, 4], [1, 0, 0]]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.integers(0, 3))
def test_gae_with_lambda_one_is_return_minus_value(values: list[float], padding: int) -> None:
    width = len(values) + padding
    mask = torch.arange(width)[None] < len(values)
    rewards = torch.arange(1.0, width + 1, dtype=torch.float64)[None] * mask
    value = torch.tensor([[*values, *[99.0] * padding]], dtype=torch.float64)
    advantages, returns = losses.gae(rewards, value, mask, 1.0, 1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1) * mask
    torch.testing.assert_close(returns, to_go)
    torch.testing.assert_close(advantages, (to_go - value) * mask)


def test_whitening_ignores_padding() -> None:
    white = losses.whiten(rows([1, 2, 3], [2, 99, 99]), MASK)
    assert white[1, 1:].tolist() == [0, 0]
    assert white[MASK].mean().item() == pytest.approx(0)
    assert white[MASK].var(correction=0).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("advantage", [0.0, 3.0, -1e6])
def test_advantages_that_are_all_the_same_say_nothing(advantage: float) -> None:
    one = torch.tensor([[True, False, False]])
    assert losses.whiten(rows([advantage, 99, 99]), one).tolist() == [[0, 0, 0]], "a batch of a single token"
    assert not losses.whiten(torch.full((2, 3), advantage), MASK).any()


def test_a_response_of_one_token_is_paid_there_and_a_longer_one_once() -> None:
    one = losses.token_rewards(torch.tensor([2.0]), torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1).bool(), 1.0)
    assert one.tolist() == [[2.0]]
    whole = losses.token_rewards(torch.tensor([2.0]), torch.zeros(1, 3), torch.zeros(1, 3), MASK[:1], 1.0)
    assert whole.tolist() == [[0, 0, 2.0]], "cut at the longest length: the score is due at the last token all the same"


def test_clipped_policy_loss() -> None:
    """Ratios 1.5, 0.5, 1.5, 0.5 with clip 0.2: a gain is capped at 1.2 or 0.8, a loss is not."""
    mask = torch.ones(1, 5, dtype=torch.bool)
    ratio, advantages = rows([1.5, 0.5, 1.5, 0.5, 1.1]), rows([2, 2, -2, -2, 2])
    loss, clipped = losses.policy_loss(ratio.log(), torch.zeros_like(ratio), advantages, mask, 0.2)
    torch.testing.assert_close(loss, rows([-2.4, -1.0, 3.0, 1.6, -2.2]))
    assert clipped.tolist() == [[True, False, False, True, False]]
    loss, clipped = losses.policy_loss(ratio.log(), torch.zeros_like(ratio), advantages, mask, None)
    torch.testing.assert_close(loss, -ratio * advantages)
    assert not clipped.any()


def test_clipped_value_loss() -> None:
    """Old value 0, return 2, clip 0.5: V = 1 counts as 0.5, V = -1 is worse than -0.5, V = 0.2 is free."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    values, zeros = rows([1, -1, 0.2]), torch.zeros(1, 3, dtype=torch.float64)
    loss, clipped = losses.value_loss(values, zeros, zeros + 2, mask, 0.5)
    torch.testing.assert_close(loss, rows([0.5 * 1.5**2, 0.5 * 3**2, 0.5 * 1.8**2]))
    assert clipped.tolist() == [[True, False, False]]
    torch.testing.assert_close(losses.value_loss(values, zeros, zeros + 2, mask, None)[0], 0.5 * (values - 2).square())


def test_padding_never_enters_a_loss() -> None:
    wild = rows([0, 0, 0], [0, 1e4, -1e4])
    loss, _ = losses.policy_loss(wild, torch.zeros_like(wild), torch.ones_like(wild), MASK, 0.2)
    assert loss.tolist() == [[-1, -1, -1], [-1, 0, 0]]
    assert losses.value_loss(wild, torch.zeros_like(wild), torch.zeros_like(wild), MASK, 0.2)[0].tolist() == [
        [0, 0, 0],
        [0, 0, 0],
    ]


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(6.0, 1.0), (6.6, 1.01), (60.0, 1.02), (0.0, 0.98)],
    ids=["on target", "a tenth above", "far above", "far below"],
)
def test_kl_control(kl: float, expected: float) -> None:
    assert losses.adapt_kl_coef(1.0, kl, target=6.0, gain=0.1) == pytest.approx(expected)
