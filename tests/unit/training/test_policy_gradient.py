"""GRPO's arithmetic against what can be worked out by hand or by torch itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hpc.config.train import PolicyConfig
from hpc.examples.advantages import group_advantages
from hpc.training import policy_gradient
from hpc.training.batches import Batch
from hpc.training.policy_gradient import PolicyLoss, clipped_loss, k3_penalty


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
    found = clipped_loss(tensor(math.log(ratio)), tensor(0.0), tensor(advantage), clip=0.2)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(loss)


def test_a_clipped_token_has_no_gradient() -> None:
    new = torch.log(torch.tensor([[1.5, 1.1]])).requires_grad_()
    clipped_loss(new, torch.zeros(1, 2), torch.ones(1, 2), clip=0.2).sum().backward()
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


def test_figures_and_loss_count_trained_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three tokens one is masked; of the trained ones one rose by a half, one fell by a tenth."""
    sampled = torch.log(torch.tensor([[0.2, 0.5, 0.3]]))
    new = torch.log(torch.tensor([[0.3, 0.45, 0.9]]))
    monkeypatch.setattr(policy_gradient, "token_logprobs", lambda logits, labels, temperature: logits)
    batch = Batch(
        tokens=torch.zeros(1, 3), labels=torch.zeros(1, 3), loss_mask=torch.tensor([[1.0, 1.0, 0.0]]),
        position_ids=torch.zeros(1, 3), packed=None, advantages=torch.tensor([[1.0, -1.0, 5.0]]), sampled=sampled,
    )  # fmt: skip
    loss = PolicyLoss(PolicyConfig(clip=0.2, kl=0.0))
    losses, sums = loss(new, batch)
    assert losses[0, :2].tolist() == pytest.approx([-1.2, 0.9])
    figures = dict(zip(loss.names, sums.tolist(), strict=True))
    assert figures["ratio"] == pytest.approx(1.5 + 0.9)
    assert figures["drift"] == pytest.approx(math.log(1.5) + math.log(0.9))
    assert figures["kl"] == pytest.approx(1.5 - math.log(1.5) - 1 + 0.9 - math.log(0.9) - 1)
    assert figures["clipped"] == 1
    held, _ = PolicyLoss(PolicyConfig(clip=0.2, kl=0.1))(new, batch)
    assert held[0, 0].item() == pytest.approx(-1.2 + 0.1 * (1 / 1.5 + math.log(1.5) - 1))


def test_a_batch_without_advantages_is_refused() -> None:
    empty = Batch(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), None)
    with pytest.raises(ValueError, match="without advantages"):
        PolicyLoss(PolicyConfig())(torch.zeros(1, 1, 4), empty)
