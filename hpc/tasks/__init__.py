"""The assignments that agents are given. Each fits the gym's `Task` protocol."""

from __future__ import annotations

from hpc.config.task import TaskConfig
from hpc.tasks.minilab.sheet import Sheet, expert_sheet
from hpc.tasks.minilab.task import MiniLab

__all__ = ["MiniLab", "Sheet", "load_task", "sheet"]


def load_task(config: TaskConfig, instance: int) -> MiniLab:
    """Task number ``instance`` (from 0) of the configured family and split."""
    return MiniLab(config, instance)


def sheet(config: TaskConfig, run_name: str, count: int, first: int = 0) -> Sheet:
    """The expert sheet of a run's episodes: every fact as advice, and each episode's values.

    Args:
        run_name: episodes are called ``<run_name>-<index>``.
        count: how many episodes.
        first: the task instance that episode 0 plays.
    """
    return expert_sheet(config, run_name, count, first)
