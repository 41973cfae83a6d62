"""Finding and reading what ``hpc drift`` replays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpc.cli.output import find_run
from hpc.config import to_builtins
from hpc.config.agent import AgentConfig
from hpc.config.drift import DriftConfig
from hpc.core import files
from hpc.core.errors import TrajectoryLayoutError, UsageError
from hpc.drift.cases import Case, read_failure
from hpc.drift.search import problem_with
from hpc.rundir import RunDir
from hpc.trajectories.exchange import swe_agent
from hpc.trajectories.exchange.source import sha256_of
from hpc.trajectories.reader import Trajectory, stored_episodes
from hpc.trajectories.records import EpisodeHeader, Record
from hpc.trajectories.stepview import views_of

Budget = tuple[int, float]
"""Steps, and seconds of working time."""


def cases_of(
    targets: Sequence[str],
    runs_root: Path,
    *,
    max_steps: int | None,
    max_hours: float | None,
    on_target: Callable[[], None],
) -> list[Case]:
    """The trajectories behind the words of a command line.

    Args:
        targets: files, RUN/INDEX or RUN.
        runs_root: folder of run directories.
        max_steps: the budget of episodes that are in no run directory; None: the agent's default.
        max_hours: so for working time.
        on_target: called after each target.

    Raises:
        UsageError: a target is neither a file nor a run, has no episode, or is named twice.
        TrajectoryError: a file cannot be read.
    """
    unless = AgentConfig()
    budget = (max_steps or unless.max_steps, 3600 * max_hours if max_hours else unless.max_working_seconds)
    cases: list[Case] = []
    for target in targets:
        cases += _of_target(target, runs_root, budget)
        on_target()
    names = [case.name for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{twice[0]} is named twice", "name every trajectory once")
    return cases


def _of_target(target: str, runs_root: Path, budget: Budget) -> list[Case]:
    path = Path(target)
    if path.is_file():
        return [_of_file(path, budget)]
    parent, _, index = target.rpartition("/")
    if parent and index.isdecimal():
        run = find_run(parent, runs_root)
        return [_of_episode(run, int(index))]
    run = find_run(target, runs_root)
    episodes = stored_episodes(run)
    if not episodes:
        raise UsageError(f"run {run.name} has no trajectory yet", f"see hpc episodes status {run.name}")
    return [_of_episode(run, episode) for episode in episodes]


def _of_episode(run: RunDir, index: int) -> Case:
    agent = run.read_config().get("agent")
    known = agent if isinstance(agent, dict) else {}
    unless = AgentConfig()
    budget = (
        int(known.get("max_steps", unless.max_steps)),
        float(known.get("max_working_seconds", unless.max_working_seconds)),
    )
    with Trajectory.open((run, index)) as trajectory:
        return _of_records(list(trajectory.records()), budget)


def _of_file(path: Path, budget: Budget) -> Case:
    if path.suffix == ".json":
        return read_failure(path, max_steps=budget[0], max_working_seconds=budget[1])
    if path.suffix == ".traj":
        return _of_records(swe_agent.read(path, sha256=sha256_of(path)), budget, name=path.name)
    with Trajectory.open(path) as trajectory:
        return _of_records(list(trajectory.records()), budget)


def _of_records(records: list[Record], budget: Budget, *, name: str | None = None) -> Case:
    header = records[0]
    if not isinstance(header, EpisodeHeader):
        raise TrajectoryLayoutError(f"{name or 'a trajectory'} has no header", "see hpc traj check")
    return Case(
        name=name or header.episode_id,
        task=f"{header.task_family}/{header.task_id}",
        views=tuple(views_of(records)),
        max_steps=budget[0],
        max_working_seconds=budget[1],
    )


# ---- configurations ---------------------------------------------------------------------------


def grid_of(told: Sequence[str], config: DriftConfig) -> dict[str, tuple[Any, ...]]:
    """The values to try, from ``KEY=V1,V2,…``; the key may begin with ``drift.``.

    Raises:
        UsageError: not of this form, or a value that the configuration does not take.
    """
    import yaml

    grid: dict[str, tuple[Any, ...]] = {}
    for each in told:
        key, _, values = each.removeprefix("drift.").partition("=")
        listed = tuple(yaml.safe_load(value) for value in values.split(",")) if values else ()
        if not listed:
            raise UsageError(f"--over {each} is not KEY=V1,V2,…", "write it as in --over monitoring.polls=5,10,20")
        for value in listed:
            problem = problem_with(config, key, value)
            if problem:
                raise UsageError(f"--over {key}={value}: {problem}", "see hpc config show drift")
        grid[key] = listed
    return grid


def write_config(path: Path, config: DriftConfig, about: str) -> None:
    """Write a configuration that Hydra can use as an option of the group ``drift``."""
    import yaml

    text = yaml.safe_dump(to_builtins(config), sort_keys=False, allow_unicode=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, f"# {about}\n{text}")
