"""Group-relative policy optimization (GRPO): what is pure of it. Advantages of groups, the clipped loss for each
token, the penalty for leaving the reference, and how far engine and trainer differ.

Sources: GRPO, Shao et al. 2024 (DeepSeekMath), 4.1; token-mean normalization as DeepResearcher (Zheng et al.
2025) trains; the k3 estimator, Schulman 2020, "Approximating KL divergence".

Shapes are [b, s]; log-probabilities are natural logarithms.
"""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

from hpc.config.train import PolicyConfig
from hpc.training.batches import Batch


def token_logprobs(logits: torch.Tensor, labels: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of each label; the logits [b, s, V / tp] may be split over tensor-parallel ranks.

    Megatron-core's cross entropy subtracts the maximum from its input in place, so it is given a copy.
    """
    scaled = (logits / temperature).float().transpose(0, 1).clone(memory_format=torch.contiguous_format)
    losses: torch.Tensor = vocab_parallel_cross_entropy(scaled, labels.transpose(0, 1).contiguous())
    return -losses.transpose(0, 1)


def clipped_loss(new: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, *, clip: float) -> torch.Tensor:
    """- min(r A, clip(r, 1 - clip, 1 + clip) A) for each token, with the ratio r = exp(new - old)."""
    ratio = (new - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def k3_penalty(new: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = reference - new, for each token: an estimate of KL(new || reference) that is
    never negative and has its gradient (unbiased for tokens sampled from ``new``)."""
    difference = reference - new
    return difference.exp() - difference - 1


class PolicyLoss:
    """GRPO's loss for each token of a batch, and how far the trainer is from the engine.

    The engine of `hpc.training.engine` sums losses over trained tokens and divides by their number in the
    whole batch (token mean): long rollouts weigh more than short ones, observations and guidance nothing.

    The figures are means over trained tokens: ``ratio`` of the probabilities now and when sampled, ``drift``
    (trainer less engine), ``gap`` (the same without its sign), ``kl`` (k3 estimate of
    KL(engine || trainer)), and ``clipped``, the share of tokens that clipping took the gradient from. Before the
    first update of a round ratio is 1 and the others are 0, but for what engine and trainer compute differently.
    """

    names: tuple[str, ...] = ("ratio", "drift", "gap", "kl", "clipped")

    def __init__(self, config: PolicyConfig) -> None:
        self.config = config

    def __call__(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses [b, s] and the figures' sums.

        Raises:
            ValueError: the batch has no advantages.
        """
        if batch.advantages is None or batch.sampled is None:
            raise ValueError("a batch without advantages and log-probabilities")
        new = token_logprobs(logits, batch.labels, temperature=self.config.temperature)
        losses = clipped_loss(new, batch.sampled, batch.advantages, clip=self.config.clip)
        losses = losses + self.config.kl * k3_penalty(new, batch.sampled)
        with torch.no_grad():
            difference = (new - batch.sampled) * batch.loss_mask
            ratio = difference.exp()
            gains = torch.where(batch.advantages > 0, ratio > 1 + self.config.clip, ratio < 1 - self.config.clip)
            figures = [ratio, difference, difference.abs(), ratio - difference - 1, gains.float()]
            sums = torch.stack([(figure * batch.loss_mask).sum() for figure in figures])
        return losses, sums
