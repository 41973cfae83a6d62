"""``hpc traj branch``: let an episode go on from a step of another."""

from __future__ import annotations

from pathlib import Path

import click

from hpc.cli.output import emit_json, find_run, json_option, runs_option


@click.command()
@click.argument("source", metavar="RUN/INDEX")
@runs_option
@click.option("--step", type=click.IntRange(min=1), required=True, metavar="N", help="The last step to keep.")
@click.option("--into", "target", required=True, metavar="RUN/INDEX", help="An episode that has not begun.")
@json_option
def branch(source: str, runs_root: Path, step: int, target: str, as_json: bool) -> None:
    """Begin an episode as a copy of another up to a step that has a snapshot; it goes on when its job runs.

    The header says where it branched off; evaluations are counted anew.

    Example: hpc traj branch first/3 --step 40 --into second/0
    """
    import msgspec

    from hpc.core.errors import UsageError
    from hpc.trajectories.branch import branch as begin

    places = []
    for named in (source, target):
        name, _, index = named.rpartition("/")
        if not name or not index.isdecimal():
            raise UsageError(f"{named} names no episode", "write RUN/INDEX")
        places.append((find_run(name, runs_root), int(index)))
    header = begin(places[0], step, places[1])
    if as_json:
        emit_json(msgspec.to_builtins(header.branched_from))
    else:
        click.echo(f"{header.run}/{header.index} goes on from step {step} of {source}")
        click.echo(f"next: hpc episodes resume {header.run}")
