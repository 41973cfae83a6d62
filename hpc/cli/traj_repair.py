"""``hpc traj repair``: save what is whole in damaged trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc.cli.output import emit_json, json_option, runs_option
from hpc.cli.traj_find import find_trajectory

if TYPE_CHECKING:
    from hpc.trajectories.repair import Repair


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="FILE|RUN/INDEX…")
@runs_option
@click.option("--end", is_flag=True, help="Also end episodes without an outcome, as failed, and seal them.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, write nothing.")
@json_option
@click.pass_context
def repair(
    ctx: click.Context, targets: tuple[str, ...], runs_root: Path, end: bool, dry_run: bool, as_json: bool
) -> None:
    """Write damaged trajectories anew from all that is whole in sealed file, log and live views.

    The damaged file stays beside the new one as .damaged; whole records behind a gap, which a trajectory
    cannot hold, go to .salvaged.jsonl. A log that has ended is sealed. May be repeated.

    Exit code: 0 nothing is lost, 3 something is, 1 a trajectory cannot be repaired.

    Example: hpc traj repair my-run/3 --dry-run
    """
    import msgspec

    from hpc.core.errors import HpcError
    from hpc.trajectories.repair import repair as repair_episode
    from hpc.trajectories.repair import repair_file

    done: list[Repair] = []
    failed: list[dict[str, str]] = []
    places = [find_trajectory(target, runs_root) for target in targets]
    for target, found in zip(targets, places, strict=True):
        try:
            if isinstance(found, tuple):
                done.append(repair_episode(*found, end=end, dry_run=dry_run))
            else:
                done.append(repair_file(found, end=end, dry_run=dry_run))
        except HpcError as error:
            failed.append({"target": target, "error": error.message})
            if not as_json:
                click.echo(f"error: {error.message}\n  fix: {error.hint}", err=True)
            continue
        if not as_json:
            _print(done[-1])
    if as_json:
        emit_json([*msgspec.to_builtins(done), *failed])
    ctx.exit(1 if failed else 3 if any(each.lost for each in done) else 0)


def _print(done: Repair) -> None:
    counts = f"  {done.steps} steps, {done.records} records" if done.records else ""
    click.echo(f"{'would be ' if done.dry_run and done.state != 'whole' else ''}{done.state}  {done.path}{counts}")
    for words, values in (("damage", done.damage), ("lost", done.lost)):
        for value in values:
            click.echo(f"  {words}: {value}")
    if done.kept:
        click.echo(f"  damaged file: {done.kept}")
    if done.aside:
        click.echo(f"  records behind the gap: {done.aside}")
