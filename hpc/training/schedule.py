"""The learning rate of each step; a pure function, so that nothing of it needs to be stored."""

from __future__ import annotations

import math

from hpc.config.train import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of ``step`` (from 0) of a training of ``steps``.

    It rises linearly over the warm-up, whose last step has the full rate, and then falls to ``min_lr`` at
    the last step.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    falling = steps - config.warmup_steps
    done = min((step - config.warmup_steps + 1) / falling, 1.0) if falling > 0 else 1.0
    share = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done
    return config.min_lr + (config.lr - config.min_lr) * share
