"""How much better a rollout was than the others of its group. Pure.

Source: GRPO, Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
