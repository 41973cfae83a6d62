"""The state of a run's episodes at a glance, from the small files that they keep up to date."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hpc.rundir import RunDir

OVER = ("finished", "truncated", "failed", "stopped")
"""Episode states after which nothing more happens."""


class EpisodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the live table. ``age`` is the time since its last step, seconds."""

    index: int
    episode: str
    state: str
    task: str = ""
    step: int = 0
    drift: float = 0.0
    alerts: int = 0
    guidance: int = 0
    score: float | None = None
    best_score: float | None = None
    attempts: int = 0
    working_seconds: float = 0.0
    age: float | None = None
    note: str = ""


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def overview(run: RunDir, element_states: Mapping[int, tuple[str, str]] | None = None) -> list[EpisodeRow]:
    """One row for each episode of the run, by index.

    Args:
        element_states: episode index -> (scheduler's state, reason), shown while the episode itself
            has nothing to say or the scheduler knows better (its job was lost).
    """
    known = element_states or {}
    rows = []
    for index in range(int(run.read_manifest().get("episodes", 0))):
        progress, result = _read(run.progress(index)), _read(run.result(index))
        scheduler, note = known.get(index, ("", ""))
        state = str(result.get("status") or progress.get("state") or "waiting")
        if state not in OVER and scheduler and scheduler not in ("RUNNING", "UNKNOWN"):
            state = scheduler.lower()
        updated = progress.get("updated_at")
        rows.append(
            EpisodeRow(
                index=index,
                episode=f"{run.name}-{index:05d}",
                state=state,
                task=str(progress.get("task", "")),
                step=int(result.get("steps", progress.get("step", 0))),
                drift=float(progress.get("drift", 0.0)),
                alerts=int(progress.get("alerts", 0)),
                guidance=int(progress.get("guidance", 0)),
                score=result.get("final_score", progress.get("score")),
                best_score=result.get("best_score", progress.get("best_score")),
                attempts=int(progress.get("epoch", 0)),
                working_seconds=float(progress.get("working_seconds", 0.0)),
                age=None if updated is None else max(0.0, time.time() - float(updated)),
                note=str(result.get("reason", "")) or note,
            )
        )
    return rows


def is_over(rows: list[EpisodeRow]) -> bool:
    """Whether every episode has ended."""
    return all(row.state in OVER for row in rows)
