"""What ``hpc traj check`` looks at: single trajectories, or all of a run with a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from hpc.cli.output import bar, emit_table, find_run
from hpc.cli.traj_find import find_trajectory

if TYPE_CHECKING:
    from hpc.rundir import RunDir
    from hpc.trajectories.check import Report

FILES = (".h5", ".frames")
SHOWN_FINDINGS = 3


class Places(msgspec.Struct, frozen=True):
    """What is to be checked, in order, and which of the targets were whole runs."""

    each: list[Path | tuple[RunDir, int]]
    runs: list[RunDir]


def places_of(targets: Sequence[str], runs_root: Path) -> Places:
    """What the targets name; the newest run without one.

    Raises:
        UsageError: there is no such run.
    """
    from hpc.trajectories.reader import stored_episodes

    each: list[Path | tuple[RunDir, int]] = []
    runs: list[RunDir] = []
    for target in targets or (None,):
        found = None if target is None else find_trajectory(target, runs_root)
        if isinstance(found, tuple) or (found is not None and (found.is_file() or found.suffix in FILES)):
            each.append(found)
            continue
        run = find_run(target, runs_root)
        runs.append(run)
        each += [(run, index) for index in stored_episodes(run)]
    return Places(each, runs)


def check_all(places: Places, *, snapshots: bool) -> list[Report]:
    """The verdicts; of episodes of whole runs also on the workspaces that they name."""

    from hpc.trajectories.check import check, check_episode
    from hpc.trajectories.snapshots import SnapshotStore

    whole = {run.root for run in places.runs} if snapshots else set()
    reports = []
    with bar("checking", len(places.each)) as advance:
        for place in places.each:
            if isinstance(place, tuple):
                run, index = place
                store = SnapshotStore(run.snapshots) if run.root in whole else None
                reports.append(check_episode(run, index, snapshots=store))
            else:
                reports.append(check(place))
            advance()
    return reports


def print_table(places: Places, reports: Sequence[Report]) -> None:
    """A line for each trajectory, what is wrong below, and a last line that counts."""
    several = len(places.runs) > 1
    rows = []
    for place, report in zip(places.each, reports, strict=True):
        name = str(place) if isinstance(place, Path) else f"{place[0].name}/{place[1]}" if several else str(place[1])
        words = [f"{finding.kind}: {finding.detail}" for finding in report.findings[:SHOWN_FINDINGS]]
        more = len(report.findings) - len(words)
        words += [f"and {more} more"] if more > 0 else [] if words else report.notes
        rows.append([name, report.state, report.form, f"{report.steps:,}", f"{report.records:,}", "; ".join(words)])
    emit_table(["trajectory", "state", "form", "steps", "records", "found"], rows, empty="no trajectories yet")
    if reports:
        bad = sum(report.state != "whole" for report in reports)
        steps = sum(report.steps for report in reports)
        hint = "; `hpc traj repair RUN/INDEX` saves what is whole" if bad else ""
        click.echo(f"{len(reports) - bad} of {len(reports)} whole, {steps:,} steps{hint}")
