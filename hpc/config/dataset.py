"""What becomes of trajectories on their way into a dataset."""

from __future__ import annotations

from typing import Literal

from hpc.config.base import Config
from hpc.config.model import ModelConfig
from hpc.config.supervision import SupervisionConfig

GuidanceOption = Literal["keep", "drop", "random"]


class DatasetConfig(Config):
    """One arm: which episodes, which of their actions are trained, and in which context."""

    arm: str = "custom"
    """Name of this arm, kept with every example."""
    interaction: Literal["any", "guided", "unguided"] = "any"
    """Episodes in which guidance was applied, those in which none was, or all."""
    filter: bool = True
    """Train only what the policy in `supervision` lets through; false: every action."""
    min_score: float | None = None
    """Only episodes with at least this score, in [0, 100]; None: any, also without one."""
    score: Literal["final", "best"] = "final"
    """The score that is meant."""
    statuses: tuple[str, ...] = ("finished", "truncated", "stopped", "failed")
    """Outcomes of the episodes that are taken; running ones never are."""
    guidance: GuidanceOption = "keep"
    """Guidance in the training context: keep, drop, or drop each turn at random."""
    drop_probability: float = 0.5
    """With guidance=random, the chance of each turn to be dropped."""
    validation_share: float = 0.0
    """Share of the tasks (by hash) whose examples become the split `validation`."""
    max_tokens: int | None = None
    """Longer examples are left out and counted; None: no limit."""
    deduplicate: bool = True
    """Leave out examples whose tokens and mask are those of an earlier one."""
    rewards: Literal["none", "score"] = "none"
    """score: every example carries its episode's advantage over the others of its task, for `hpc train grpo`; tasks
    whose episodes all have the same score teach nothing and are left out."""
    seed: int = 1
    """Decides which guidance is dropped and which tasks are for validation."""

    def __post_init__(self) -> None:
        for name in ("drop_probability", "validation_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be in [0, 1]")
        if self.rewards != "none" and self.guidance != "keep":
            raise ValueError(
                f"guidance is {self.guidance!r} with rewards, it must be keep: probabilities are of that context"
            )
        if self.max_tokens is not None and self.max_tokens < 2:
            raise ValueError(f"max_tokens is {self.max_tokens}, it must be 2 or more, or null")
        unknown = sorted(set(self.statuses) - {"finished", "truncated", "stopped", "failed"})
        if unknown:
            raise ValueError(f"statuses names {unknown[0]!r}; there are finished, truncated, stopped and failed")


class DatasetRunConfig(Config):
    """Root configuration of `hpc dataset build`."""

    dataset: DatasetConfig
    supervision: SupervisionConfig
    model: ModelConfig
