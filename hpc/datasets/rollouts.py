"""Rollouts for policy-gradient training: what each episode was better than the others of its task."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hpc.config.dataset import DatasetConfig
from hpc.core.errors import TrajectoryError
from hpc.datasets.episode import left_out
from hpc.examples import Example
from hpc.examples.advantages import group_advantages
from hpc.trajectories.reader import Trajectory

if TYPE_CHECKING:
    from hpc.datasets.builder import Report


def compare(sources: Iterable[Path], config: DatasetConfig, report: Report) -> dict[str, float]:
    """The advantage of each episode that the arm takes, by episode id; those of groups without a difference, which
    teach nothing, are not in it. A group is the episodes of one task; the reward is the score over 100. All rewards
    go into the report."""
    rewards: dict[str, float] = {}
    groups: dict[str, str] = {}
    together: dict[str, list[float]] = {}
    for path in sources:
        with contextlib.suppress(TrajectoryError), Trajectory.open(path) as trajectory:  # the build reports it
            outcome = trajectory.outcome
            if outcome is None or left_out(trajectory, config):
                continue
            score = outcome.final_score if config.outcome.score == "final" else outcome.best_score
            if score is not None:
                group = f"{trajectory.header.task_family}/{trajectory.header.task_id}"
                rewards[trajectory.header.episode_id] = score / 100.0
                groups[trajectory.header.episode_id] = group
                together.setdefault(group, []).append(score / 100.0)
    report.rewards = together
    advantages = group_advantages(list(rewards.values()), list(groups.values()))
    return {episode: float(value) for episode, value in zip(rewards, advantages, strict=True) if value != 0.0}


def with_advantage(example: Example, advantage: float) -> Example:
    """The example with this advantage on every trained token."""
    return msgspec.structs.replace(
        example,
        advantages=example.loss_mask.astype(np.float32) * np.float32(advantage),
        meta={**example.meta, "advantage": advantage},
    )
