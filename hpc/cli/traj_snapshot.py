"""``hpc traj snapshot``: workspaces as they were, listed, laid out again and cleared up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option

if TYPE_CHECKING:
    from hpc.rundir import RunDir
    from hpc.trajectories.records import SnapshotTaken


@click.group()
def snapshot() -> None:
    """Workspaces that episodes left: list them, lay one out again, remove what nothing names.

    Taken as `gym.snapshots` says (`every` N steps, `at_end`).

    Example: hpc traj snapshot restore my-run/3 --step 40 --out /tmp/as-it-was
    """


@snapshot.command("ls")
@click.argument("target", metavar="RUN|RUN/INDEX")
@runs_option
@json_option
def list_snapshots(target: str, runs_root: Path, as_json: bool) -> None:
    """List the snapshots of a run's trajectories, also those that were refused.

    Example: hpc traj snapshot ls my-run/3
    """
    import msgspec

    run, index = _place(target, runs_root)
    rows = [
        {"index": number, **msgspec.to_builtins(taken)}
        for number in ([index] if index is not None else _episodes(run))
        for taken in _snapshots(run, number)
    ]
    if as_json:
        emit_json(rows)
        return
    emit_table(
        ["index", "step", "why", "id", "files", "bytes", "stored", "problem"],
        [
            [str(r["index"]), str(r["step"]), r["reason"], r["id"][:12], *map(_count, _numbers(r)), r["problem"]]
            for r in rows
        ],
        empty=f"no snapshots in {target}; gym.snapshots.every and gym.snapshots.at_end take them",
    )


@snapshot.command()
@click.argument("target", metavar="RUN/INDEX|RUN")
@runs_option
@click.option("--step", type=click.IntRange(min=0), metavar="N", help="The latest one not after this step.")
@click.option("--id", "name", metavar="ID", help="The one whose id begins so.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The new folder.")
@json_option
def restore(target: str, runs_root: Path, step: int | None, name: str | None, out: Path, as_json: bool) -> None:
    """Lay a workspace out as a new folder; every byte is compared with its hash.

    Without --step and --id the latest one of the episode.

    \b
    Examples:
      hpc traj snapshot restore my-run/3 --step 40 --out /tmp/as-it-was
      hpc traj snapshot restore my-run --id 3f9a --out /tmp/as-it-was
    """
    from hpc.core.errors import UsageError
    from hpc.trajectories.snapshots import SnapshotStore

    run, index = _place(target, runs_root)
    store = SnapshotStore(run.snapshots)
    if name is not None:
        found = store.find(name)
    elif index is None:
        raise UsageError(f"{target} is a run", "name an episode as RUN/INDEX, or a snapshot with --id")
    else:
        usable = [taken for taken in _snapshots(run, index) if taken.id and (step is None or taken.step <= step)]
        if not usable:
            raise UsageError(f"{target} has no snapshot{'' if step is None else f' up to step {step}'}", "see `ls`")
        found = usable[-1].id
    manifest = store.restore(found, out)
    done = {"id": found, "out": str(out), "files": manifest.file_count, "bytes": manifest.size}
    if as_json:
        emit_json(done | {"left_out": manifest.left_out})
    else:
        click.echo(f"{out}: {manifest.file_count:,} files, {manifest.size:,} bytes of snapshot {found[:12]}")
        for path in manifest.left_out:
            click.echo(f"  not in it: {path}", err=True)


@snapshot.command()
@click.argument("target", metavar="RUN")
@runs_option
@click.option("--dry-run", is_flag=True, help="Say what would be removed, remove nothing.")
@json_option
def prune(target: str, runs_root: Path, dry_run: bool, as_json: bool) -> None:
    """Remove pieces that no snapshot names, and what killed writers left (nothing younger than an hour).

    Example: hpc traj snapshot prune my-run --dry-run
    """
    from hpc.trajectories.snapshots import SnapshotStore

    run, _ = _place(target, runs_root)
    count, size = SnapshotStore(run.snapshots).prune(dry_run=dry_run)
    if as_json:
        emit_json({"files": count, "bytes": size, "dry_run": dry_run})
    else:
        click.echo(f"{'would remove' if dry_run else 'removed'} {count:,} files of {size:,} bytes")


def _place(target: str, runs_root: Path) -> tuple[RunDir, int | None]:
    name, _, index = target.rpartition("/")
    if name and index.isdecimal() and not Path(target).is_dir():
        return find_run(name, runs_root), int(index)
    return find_run(target, runs_root), None


def _episodes(run: RunDir) -> list[int]:
    from hpc.trajectories.reader import stored_episodes

    return stored_episodes(run)


def _snapshots(run: RunDir, index: int) -> list[SnapshotTaken]:
    from hpc.trajectories.reader import Trajectory

    with Trajectory.open((run, index)) as trajectory:
        return trajectory.snapshots


def _numbers(row: dict[str, Any]) -> list[int]:
    return [row["files"], row["size"], row["stored"]]


def _count(value: int) -> str:
    return f"{value:,}"
