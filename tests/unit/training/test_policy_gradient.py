"""GRPO's arithmetic against what can be worked out by hand or by torch itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hpc.training.policy_gradient import (
    Drift,
    clipped_loss,
    drift,
    group_advantages,
    k3_penalty,
    policy_loss,
)


def tensor(*values: float) -> object:
    return torch.tensor([values])


def test_advantages_are_relative_to_the_group() -> None:
    found = group_advantages([1.0, 3.0, 10.0, 10.0], ["a", "a", "b", "b"])
    np.testing.assert_allclose(found, [-1, 1, 0, 0], atol=1e-5)


def test_groups_may_be_mixed_and_of_one() -> None:
    found = group_advantages([0.0, 5.0, 1.0, 2.0], ["x", "lonely", "x", "x"])
    assert found[1] == 0
    assert found[[0, 2, 3]].mean() == pytest.approx(0, abs=1e-6)
    assert (found[[0, 2, 3]] ** 2).mean() == pytest.approx(1, abs=1e-4)


def test_rewards_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="no finite number"):
        group_advantages([math.nan], ["a"])
    with pytest.raises(ValueError, match="2 rewards and 1 groups"):
        group_advantages([1.0, 2.0], ["a"])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [(1.0, 2.0, -2.0), (1.5, 2.0, -2.4), (0.5, 2.0, -1.0), (1.5, -2.0, 3.0), (0.5, -2.0, 1.6)],
)
def test_the_ratio_is_clipped_where_it_would_gain(ratio: float, advantage: float, loss: float) -> None:
    found = clipped_loss(tensor(math.log(ratio)), tensor(0.0), tensor(advantage))  # type: ignore[arg-type]
    assert found.item() == pytest.approx(loss)


def test_a_clipped_token_has_no_gradient() -> None:
    new = torch.log(torch.tensor([[1.5, 1.1]])).requires_grad_()
    clipped_loss(new, torch.zeros(1, 2), torch.ones(1, 2)).sum().backward()
    assert new.grad.tolist() == [[0.0, pytest.approx(-1.1)]]


def test_the_penalty_is_never_negative_and_zero_where_both_agree() -> None:
    difference = torch.linspace(-3, 3, 61)[None]
    found = k3_penalty(torch.zeros_like(difference), difference)
    assert (found >= 0).all() and found[0, 30] == pytest.approx(0, abs=1e-6)


def test_the_penalty_estimates_the_divergence() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    exact = (p * (p / q).log()).sum()
    estimate = (p * k3_penalty(p.log(), q.log())).sum()
    assert estimate.item() == pytest.approx(exact.item(), abs=1e-6)


def test_the_penalty_is_added_only_with_a_reference() -> None:
    new, old, advantages = tensor(-1.0), tensor(-1.2), tensor(0.5)
    plain = policy_loss(new, old, advantages)  # type: ignore[arg-type]
    held = policy_loss(new, old, advantages, tensor(-2.0), kl=0.1)  # type: ignore[arg-type]
    assert (held - plain).item() == pytest.approx(0.1 * (math.exp(-1) + 1 - 1))


def test_drift_counts_only_trained_tokens_that_the_engine_sampled() -> None:
    trainer = torch.tensor([[-1.0, -2.0, -3.0, -9.0]])
    engine = torch.tensor([[-1.1, math.nan, -2.9, -1.0]])
    found = drift(trainer, engine, torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    assert found.tokens == 2
    assert (found.mean, found.worst) == (pytest.approx(0, abs=1e-6), pytest.approx(0.1, abs=1e-6))
    assert found.ratio == pytest.approx((math.exp(0.1) + math.exp(-0.1)) / 2, abs=1e-6)
    assert drift(trainer, engine, torch.zeros(1, 4)) == Drift(0, 0.0, 0.0, 1.0, 0.0)
