"""``hpc traj``: list, show and check stored trajectories, also of episodes that still run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc.cli.output import emit_json, json_option, runs_option
from hpc.cli.traj_branch import branch
from hpc.cli.traj_exchange import export_command, import_command
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


traj.add_command(branch)
traj.add_command(export_command)
traj.add_command(import_command)
traj.add_command(ls)
traj.add_command(repair)
traj.add_command(show)
traj.add_command(snapshot)
traj.add_command(snapshot)
traj.add_command(stats)


@traj.command()
@click.argument("targets", nargs=-1, metavar="[RUN|RUN/INDEX|FILE]…")
@runs_option
@click.option("--snapshots/--no-snapshots", default=True, help="Of runs, read their workspaces too.  [default: read]")
@json_option
@click.pass_context
def check(ctx: click.Context, targets: tuple[str, ...], runs_root: Path, snapshots: bool, as_json: bool) -> None:
    """Verify trajectories byte by byte and say what is whole; of a RUN (the newest one) all, in a table.

    Exit code: 0 all whole, 3 something damaged but partly whole, 1 nothing readable.

    \b
    Examples:
      hpc traj check my-run
      hpc traj check my-run/3 runs/other/trajectories/*.h5
    """
    import msgspec

    from hpc.cli.traj_check import check_all, places_of, print_table

    places = places_of(targets, runs_root)
    reports = check_all(places, snapshots=snapshots)
    if as_json:
        emit_json(msgspec.to_builtins(reports))
    elif len(places.runs) == len(targets or ("the newest",)):  # runs alone
        print_table(places, reports)
    else:
        for report in reports:
            _print_report(report)
    states = {report.state for report in reports} or {"whole"}
    ctx.exit(0 if states == {"whole"} else 1 if states == {"unreadable"} else 3)


def _print_report(report: Report) -> None:
    click.echo(f"{report.state}  {report.path}  {report.form}, {report.steps} steps, {report.records} records whole")
    for finding in report.findings:
        click.echo(f"  {finding.kind}: {finding.detail}")
    for note in report.notes:
        click.echo(f"  note: {note}")
