"""Configuration of a dataset: which episodes, which of their answers are trained, and in what context."""

from __future__ import annotations

from typing import Literal

from hpc.config.base import Config
from hpc.config.supervision import SupervisionConfig


class OutcomeConfig(Config):
    """Which outcomes an episode must have to be taken."""

    statuses: list[str] = []
    """Any of finished, truncated, failed, stopped; empty: every one."""
    score: Literal["final", "best"] = "final"
    """Which score `at_least` looks at."""
    at_least: float | None = None
    """Least score, in [0, 100]; an episode without a score is left out. null: any."""

    def __post_init__(self) -> None:
        known = ("finished", "truncated", "failed", "stopped")
        if unknown := [status for status in self.statuses if status not in known]:
            raise ValueError(f"statuses has {unknown[0]!r}, it must be of {', '.join(known)}")
        if self.at_least is not None and not 0 <= self.at_least <= 100:
            raise ValueError(f"at_least is {self.at_least}, it must be in [0, 100] or null")


class DatasetConfig(Config):
    """One arm: the episodes, the filter, and what becomes of guidance in the training context."""

    arm: str
    """Name of this combination; every manifest and table says it."""
    model: str = "shipped:minilab-tiny"
    """Folder of the model that played the episodes, for its tokenizer and chat template; or `shipped:NAME`."""
    interaction: Literal["with", "without", "any"] = "any"
    """Episodes with applied guidance, without any, or all."""
    filter: bool = True
    """Train only answers that the label policy trains; false: every whole answer."""
    outcome: OutcomeConfig = OutcomeConfig()
    """Which outcomes are taken."""
    guidance: Literal["keep", "drop", "sometimes"] = "keep"
    """Guidance in the training context: kept, dropped, or each turn dropped with `drop_probability`."""
    drop_probability: float = 0.5
    """With `guidance: sometimes`, the probability in [0, 1] with which a turn is dropped."""
    versions: list[str] = []
    """Names of weights, as they were served: an episode is taken if all its answers are of these; empty: any."""
    rewards: Literal["none", "score"] = "none"
    """score: each example carries its episode's advantage over the others of its task, for `hpc train grpo`; tasks
    whose episodes all have the same score teach nothing and are left out."""
    train_cut_off: bool = False
    """Also train answers that a length limit cut off, which have no end-of-turn token."""
    max_tokens: int | None = None
    """Longest example, tokens; null: no limit."""
    too_long: Literal["drop", "cut"] = "drop"
    """An example above `max_tokens` is dropped, or cut after the last trained answer that fits."""
    deduplicate: bool = True
    """Keep one of examples with the same tokens and mask."""
    validation_share: float = 0.0
    """Share in [0, 1) of the tasks whose examples go to the split `validation`."""
    seed: int = 0
    """Of the split and of dropped guidance."""

    def __post_init__(self) -> None:
        if not self.arm:
            raise ValueError("arm is empty, every manifest names its arm")
        if not 0 <= self.drop_probability <= 1:
            raise ValueError(f"drop_probability is {self.drop_probability}, it must be in [0, 1]")
        if self.rewards != "none" and self.guidance != "keep":
            raise ValueError(
                f"guidance is {self.guidance!r} with rewards, it must be keep: log-probabilities belong to that context"
            )
        if self.max_tokens is not None and self.max_tokens < 2:
            raise ValueError(f"max_tokens is {self.max_tokens}, it must be 2 or more, or null")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}, it must be in [0, 1)")


class DatasetBuildConfig(Config):
    """Root of ``hpc dataset build``."""

    dataset: DatasetConfig
    supervision: SupervisionConfig
