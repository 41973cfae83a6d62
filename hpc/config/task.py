"""Configuration of the tasks that agents are given."""

from __future__ import annotations

from typing import Literal

from hpc.config.base import Config


class TaskConfig(Config, frozen=True):
    """Which tasks: a family, one of its splits, and the seeds they are made from."""

    family: Literal["minilab"] = "minilab"
    """Kind of task."""
    split: Literal["train", "eval"] = "train"
    """Tasks of different splits never share a combination of values."""
    seed: int = 1
    """Seed of the instances: which values, in which order of stages."""
    repeats: int = 1
    """So many episodes in a row get the same instance: the groups of GRPO."""
    facts_seed: int = 20251030
    """Seed of the hidden facts, which all instances of both splits share."""
    budget: int = 16
    """Instrument runs that an episode may spend."""
    seconds_per_run: float = 0.5
    """How long one instrument run takes, seconds."""
    max_evaluations: int = 3
    """Evaluations the agent may ask for; the final one is not counted."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}, it must be 1 or more")
        if self.budget < 6:
            raise ValueError(f"budget is {self.budget}, it must be 6 or more: one run for each stage")
        if not 0 <= self.seconds_per_run <= 3600:
            raise ValueError(f"seconds_per_run is {self.seconds_per_run}, it must be in [0, 3600]")
        if self.max_evaluations < 0:
            raise ValueError(f"max_evaluations is {self.max_evaluations}, it must be 0 or more")
