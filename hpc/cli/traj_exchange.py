"""``hpc traj export`` and ``hpc traj import``: trajectories to and from other tools' formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import bar, emit_json, find_run, json_option, runs_option

if TYPE_CHECKING:
    from hpc.rundir import RunDir

WRITABLE = ("jsonl", "parquet", "atif", "inspect")
READABLE = ("swe-agent", *WRITABLE)
SHOWN_FAILURES = 20


@click.command("export")
@click.argument("targets", nargs=-1, required=True, metavar="RUN|RUN/INDEX|FILE…")
@runs_option
@click.option("--format", "name", required=True, type=click.Choice(WRITABLE), help="What to write.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write; of atif the folder (or FILE.json for one).",
)
@click.option(
    "--where", "conditions", multiple=True, metavar="FIELD=VALUE", help="Only these; = != > >= < <=, repeatable."
)
@click.option("--bare", is_flag=True, help="Only what the format itself has, nothing under the key apollo_hpc.")
@click.option("--unfinished", is_flag=True, help="Take episodes that have not ended, too.")
@click.option("--overwrite", is_flag=True, help="Replace what is at --out.")
@click.option("--dry-run", is_flag=True, help="Read everything, write nothing, say what would be written and lost.")
@json_option
@click.pass_context
def export_command(
    ctx: click.Context,
    targets: tuple[str, ...],
    runs_root: Path,
    name: str,
    out: Path,
    conditions: tuple[str, ...],
    bare: bool,
    unfinished: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write trajectories for other tools: chats (JSONL, Parquet), ATIF, inspect_ai's eval log.

    What a format cannot hold is named on stderr (with --json in `lost`). Fields of --where: status,
    task, family, split, index, seed, steps, score, best, alerts, guidance, attempts. Exit code: 0 all
    written, 3 some could not be read, 1 nothing was written.

    \b
    Examples:
      hpc traj export my-run --format jsonl --out chats.jsonl --where status=finished --where 'score>=50'
      hpc traj export my-run --format inspect --out logs/my-run.eval && inspect view --log-dir logs
      hpc traj export my-run/3 --format atif --out trajectory.json
    """
    import msgspec

    from hpc.trajectories.exchange import selection
    from hpc.trajectories.exchange.exporting import export

    places = [place for target in targets for place in _places(target, runs_root)]
    wanted = selection.all_of(conditions)
    with bar("exporting", len(places), hidden=as_json) as advance:
        done = export(
            places,
            name,
            out,
            wanted=wanted,
            bare=bare,
            unfinished=unfinished,
            overwrite=overwrite,
            dry_run=dry_run,
            on_done=advance,
        )
    if as_json:
        emit_json(msgspec.to_builtins(done))
    else:
        verb = "would write" if dry_run else "wrote"
        click.echo(f"{verb} {done.written} trajectories, {done.steps} steps to {out}" + _size(done.bytes))
        _note(done.left_out, "left out by --where")
        _note(done.unfinished, "left out: not ended (--unfinished takes them)")
        _tell(done.lost, done.failed)
    ctx.exit(_code(done.written, done.failed))


@click.command("import")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Run directory of imports; made if there is none."
)
@click.option(
    "--format", "name", type=click.Choice(READABLE), help="Of all files; otherwise told from name and content."
)
@click.option("--dry-run", is_flag=True, help="Read everything, write nothing, say what would be imported and lost.")
@json_option
@click.pass_context
def import_command(
    ctx: click.Context, sources: tuple[Path, ...], out: Path, name: str | None, dry_run: bool, as_json: bool
) -> None:
    """Read other tools' trajectories into a run directory: SWE-agent, chats (JSONL, Parquet), ATIF, inspect_ai.

    Each becomes a sealed trajectory whose header says where it comes from. Repeating the command
    imports what is missing. What cannot be taken over is named on stderr (with --json in `lost`). Exit
    code: 0 all imported, 3 some failed, 1 nothing was imported.

    \b
    Examples:
      hpc traj import trajectories/*.traj --out runs/swe-agent
      hpc traj import chats.jsonl --out runs/chats --dry-run
      hpc traj ls swe-agent
    """
    import msgspec

    from hpc.trajectories.exchange.importing import import_files

    with bar("importing", len(sources), hidden=as_json) as advance:
        done = import_files(sources, out, name=name, dry_run=dry_run, on_file=advance)
    if as_json:
        emit_json(msgspec.to_builtins(done))
    else:
        verb = "would import" if dry_run else "imported"
        kinds = ", ".join(f"{count} {kind}" for kind, count in done.formats.items())
        click.echo(
            f"{verb} {done.imported} trajectories, {done.steps} steps into {out}" + (f" ({kinds})" if kinds else "")
        )
        _note(done.present, "were there already")
        _tell(done.lost, done.failed)
        if done.imported and not dry_run:
            click.echo(f"next: hpc traj ls {out}", err=True)
    ctx.exit(_code(done.imported + done.present, done.failed))


def _places(target: str, runs_root: Path) -> list[Path | tuple[RunDir, int]]:
    """A file, an episode named RUN/INDEX, or all episodes of a run."""
    from hpc.trajectories.reader import stored_episodes

    path = Path(target)
    run_name, _, index = target.rpartition("/")
    if path.is_file():
        return [path]
    if run_name and index.isdecimal() and not (path / "config.json").is_file():
        return [(find_run(run_name, runs_root), int(index))]
    run = find_run(target, runs_root)
    return [(run, each) for each in stored_episodes(run)]


def _tell(lost: dict[str, int], failed: list[dict[str, str]]) -> None:
    for what, count in lost.items():
        click.echo(f"note: lost in {count}: {what}", err=True)
    for failure in failed[:SHOWN_FAILURES]:
        click.echo(f"error: {failure['error']}", err=True)
    if len(failed) > SHOWN_FAILURES:
        click.echo(f"error: and {len(failed) - SHOWN_FAILURES} more (--json lists all)", err=True)


def _note(count: int, what: str) -> None:
    if count:
        click.echo(f"note: {count} {what}", err=True)


def _size(count: int) -> str:
    return f" ({count / 1e6:.1f} MB)" if count else ""


def _code(done: int, failed: list[Any]) -> int:
    return 0 if not failed else 3 if done else 1
