"""Which labels decide what is trained."""

from __future__ import annotations

from typing import Literal

from hpc.config.base import Config

RULES = (
    "blind_retry",
    "monitoring_deadlock",
    "evaluation_abuse",
    "edit_without_read",
    "rollback",
    "fruitless_edit",
    "session_leak",
    "no_action",
    "corrected",
    "abandoned_branch",
    "failed_action",
)


class SupervisionConfig(Config):
    """The policy: labels in, train or context-only out."""

    rules: tuple[str, ...] = RULES[:-1]
    """Rules whose verdicts count."""
    judge: bool = True
    """Whether a judge's verdicts count."""
    humans: bool = True
    """Whether people's verdicts count."""
    precedence: Literal["rank", "any"] = "rank"
    """rank: people beat judges, judges beat rules; any: one sub-optimal verdict is enough."""
    unlabelled: Literal["train", "context"] = "train"
    """What becomes of actions without any label."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.rules) - set(RULES))
        if unknown:
            raise ValueError(f"rules names {unknown[0]!r}, which is no rule; there are {', '.join(RULES)}")


class SupervisionRunConfig(Config):
    """Root configuration of `hpc label` and of datasets' filters."""

    supervision: SupervisionConfig
