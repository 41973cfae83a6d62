"""``hpc traj``: list, show and check stored trajectories, also of episodes that still run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc.cli.output import emit_json, json_option, runs_option
from hpc.cli.traj_exchange import export_command, import_command
from hpc.cli.traj_find import find_trajectory
from hpc.cli.traj_ls import ls, stats
from hpc.cli.traj_repair import repair
from hpc.cli.traj_show import show
from hpc.cli.traj_snapshot import snapshot

if TYPE_CHECKING:
    from hpc.trajectories.check import Report


@click.group(invoke_without_command=True)
@runs_option
@click.pass_context
def traj(ctx: click.Context, runs_root: Path) -> None:
    """List, show and check stored trajectories. Without a verb: list those of the newest run.

    Example: hpc traj show my-run/3 --steps 10:20
    """
    if ctx.invoked_subcommand is None:
        with ls.make_context("ls", ["--runs", str(runs_root)], parent=ctx) as listing:
            ls.invoke(listing)


traj.add_command(export_command)
traj.add_command(import_command)
traj.add_command(ls)
traj.add_command(repair)
traj.add_command(show)
traj.add_command(snapshot)
traj.add_command(snapshot)
traj.add_command(stats)


@traj.command()
@click.argument("targets", nargs=-1, required=True, metavar="FILE|RUN/INDEX…")
@runs_option
@json_option
@click.pass_context
def check(ctx: click.Context, targets: tuple[str, ...], runs_root: Path, as_json: bool) -> None:
    """Verify trajectories byte by byte and say what is whole.

    Exit code: 0 all whole, 3 something damaged but partly whole, 1 nothing readable.

    Example: hpc traj check runs/my-run/trajectories/*.h5
    """
    import msgspec

    from hpc.trajectories.check import check as check_file
    from hpc.trajectories.reader import path_of

    found = [find_trajectory(target, runs_root) for target in targets]
    reports = [check_file(path_of(*place) if isinstance(place, tuple) else place) for place in found]
    if as_json:
        emit_json(msgspec.to_builtins(reports))
    else:
        for report in reports:
            _print_report(report)
    states = {report.state for report in reports}
    ctx.exit(0 if states == {"whole"} else 1 if states == {"unreadable"} else 3)


def _print_report(report: Report) -> None:
    click.echo(f"{report.state}  {report.path}  {report.form}, {report.steps} steps, {report.records} records whole")
    for finding in report.findings:
        click.echo(f"  {finding.kind}: {finding.detail}")
    for note in report.notes:
        click.echo(f"  note: {note}")
