"""Group-relative policy optimization (GRPO): what is pure of it. Advantages of groups, the clipped loss for each
token, the penalty for leaving the reference, and how far engine and trainer differ.

Sources: GRPO, Shao et al. 2024 (DeepSeekMath), 4.1; token-mean normalization as DeepResearcher (Zheng et al.
2025) trains; the k3 estimator, Schulman 2020, "Approximating KL divergence".

Shapes are [b, s]; log-probabilities are natural logarithms. A token without an engine's log-probability
(NaN) takes no part in the drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from numpy.typing import NDArray

EPSILON = 1e-6
"""Keeps a group whose rewards are all equal from a division by zero; its advantages are 0."""


def group_advantages(rewards: Sequence[float], groups: Sequence[str]) -> NDArray[np.float32]:
    """(r - mean) / (std + 1e-6) within each group; ``std`` is the population's.

    Args:
        rewards: one for each rollout.
        groups: rollouts of the same task and start have the same name.

    Raises:
        ValueError: as many groups as rewards are needed, and every reward must be finite.
    """
    values = np.asarray(rewards, np.float64)
    names = np.asarray(groups)
    if values.shape != names.shape:
        raise ValueError(f"{len(values)} rewards and {len(names)} groups")
    if not np.isfinite(values).all():
        raise ValueError("a reward is no finite number")
    advantages = np.zeros(len(values), np.float32)
    for name in np.unique(names):
        members = names == name
        spread = values[members] - values[members].mean()
        advantages[members] = spread / (np.sqrt((spread**2).mean()) + EPSILON)
    return advantages


def token_logprobs(logits: torch.Tensor, labels: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of each label; the logits [b, s, V / tp] may be split over tensor-parallel ranks.

    Megatron-core's cross entropy subtracts the maximum from its input in place, so it is given a copy.
    """
    scaled = (logits.float() / temperature).transpose(0, 1).clone(memory_format=torch.contiguous_format)
    losses: torch.Tensor = vocab_parallel_cross_entropy(scaled, labels.transpose(0, 1).contiguous())
    return -losses.transpose(0, 1)


def clipped_loss(
    new: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> torch.Tensor:
    """- min(r A, clip(r, 1 - low, 1 + high) A) for each token, with the ratio r = exp(new - old)."""
    ratio = (new - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)


def k3_penalty(new: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = reference - new, for each token: an estimate of KL(new || reference) that is
    never negative and has its gradient (unbiased for tokens sampled from ``new``)."""
    difference = reference - new
    return difference.exp() - difference - 1


def policy_loss(
    new: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    reference: torch.Tensor | None = None,
    *,
    clip: float = 0.2,
    kl: float = 0.001,
) -> torch.Tensor:
    """The loss of each token. The engine sums it over trained tokens and divides by their number in the
    whole batch (token mean): long rollouts weigh more than short ones, and observations weigh nothing."""
    loss = clipped_loss(new, old, advantages, clip_low=clip, clip_high=clip)
    return loss if reference is None or kl == 0 else loss + kl * k3_penalty(new, reference)


class Drift(NamedTuple):
    """How far the trainer's log-probabilities are from those the engine sampled with, over ``tokens``.

    ``ratio`` is the mean of exp(trainer - engine): 1 when both are the same; ``kl`` the k3 estimate of
    KL(engine || trainer); ``worst`` the largest absolute difference.
    """

    tokens: int
    mean: float
    worst: float
    ratio: float
    kl: float


def drift(trainer: torch.Tensor, engine: torch.Tensor, mask: torch.Tensor) -> Drift:
    """Compare on the trained tokens that the engine sampled."""
    chosen = mask.bool() & torch.isfinite(engine)
    count = int(chosen.sum())
    if count == 0:
        return Drift(0, 0.0, 0.0, 1.0, 0.0)
    difference = (trainer - engine)[chosen].double()
    return Drift(
        tokens=count,
        mean=float(difference.mean()),
        worst=float(difference.abs().max()),
        ratio=float(difference.exp().mean()),
        kl=float((difference.exp() - difference - 1).mean()),
    )
