"""``hpc run``: the jobs behind runs: list, watch, read their logs, cancel, clean up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option

if TYPE_CHECKING:
    from hpc.rundir import RunDir
    from hpc.slurm import ElementState

REFRESH_SECONDS = 2.0
LEAVE_SECONDS = 20.0  # how long `clean` waits for processes whose work is over
JOB_COLUMNS = ["job", "state", "elements", "indices", "ids", "reason"]
ELEMENT_COLUMNS = ["job", "index", "state", "attempt", "id", "host", "reason"]


@click.group(invoke_without_command=True)
@runs_option
@click.pass_context
def run(ctx: click.Context, runs_root: Path) -> None:
    """List, watch, cancel and clean runs. Without a verb: list.

    Example: hpc run status my-run --watch
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(ls, runs_root=runs_root)


@run.command()
@runs_option
@click.option("--limit", default=20, show_default=True, help="Show so many, the newest first.")
@json_option
def ls(runs_root: Path, limit: int = 20, as_json: bool = False) -> None:
    """List runs, newest first, with the states of their elements.

    \b
    Examples:
      hpc run ls
      hpc run ls --json | jq '.[].run'
    """
    from hpc.core.errors import HpcError
    from hpc.rundir import runs_under
    from hpc.slurm import jobs_of, states_of

    runs = runs_under(runs_root)[:limit]
    created: dict[str, float] = {}
    damaged: dict[str, str] = {}
    for each in runs:
        try:
            created[each.name] = float(each.read_manifest().get("created_at") or 0)
            jobs_of(each)
        except (HpcError, OSError, TypeError, ValueError) as error:
            damaged[each.name] = error.message if isinstance(error, HpcError) else str(error)
    states = states_of([each for each in runs if each.name not in damaged])
    rows: list[dict[str, Any]] = []
    for each in runs:
        at = created.get(each.name)
        counts = Counter(element.state for element in states.get(each.root.as_posix(), []))
        rows.append(
            {
                "run": each.name,
                "created": time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) if at else "",
                "elements": dict(sorted(counts.items())),
                "episodes": _outcomes(each),
                "done": each.done.exists(),
                "damaged": damaged.get(each.name, ""),
                "directory": str(each.root),
            }
        )
    if as_json:
        emit_json(rows)
        return
    emit_table(
        ["run", "created", "elements", "episodes", "done"],
        [[r["run"], r["created"], _counts(r["elements"]), _counts(r["episodes"]), _ended(r)] for r in rows],
        empty=f"no runs under {runs_root}; start one with: hpc episodes submit",
    )
    for name, why in damaged.items():
        click.echo(f"{name} is damaged: {why}", err=True)


@run.command()
@click.argument("run_name", required=False, metavar="[RUN]")
@click.argument("job", required=False)
@runs_option
@click.option("--watch", is_flag=True, help="Go on until nothing of it is alive, printing what changes.")
@json_option
def status(run_name: str | None, job: str | None, runs_root: Path, watch: bool, as_json: bool) -> None:
    """Show the jobs of RUN (the newest run without a name), or every element of JOB.

    \b
    Examples:
      hpc run status my-run
      hpc run status my-run episodes --json
      hpc run status my-run --watch
    """
    from hpc.slurm import states

    here = find_run(run_name, runs_root)
    elements = states(here, job)
    _require_job(here, job, elements)
    _show(here, job, elements, as_json)
    while watch and not all(element.gone or element.state == "BLOCKED" for element in elements):
        time.sleep(REFRESH_SECONDS)
        before, elements = elements, states(here, job)
        if elements != before:
            if not as_json:
                click.echo(f"-- {time.strftime('%H:%M:%S')}", err=True)
            _show(here, job, elements, as_json)


@run.command()
@click.argument("run_name", metavar="RUN")
@click.argument("job", required=False)
@runs_option
@click.option("--index", default=0, show_default=True, help="Which element of the job.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the element is over.")
@json_option
def logs(run_name: str, job: str | None, runs_root: Path, index: int, follow: bool, as_json: bool) -> None:
    """Print the log of one element of JOB (needed only where RUN has several jobs).

    \b
    Examples:
      hpc run logs my-run router --follow
      hpc run logs my-run episodes --index 3
    """
    from hpc.core.errors import UsageError
    from hpc.slurm import jobs_of, log_path, tail_log

    here = find_run(run_name, runs_root)
    if job is None:
        known = jobs_of(here)
        if len(known) != 1:
            raise UsageError(f"{here.name} has the jobs {', '.join(known) or '(none)'}", "name one of them")
        job = known[0]
    if as_json:
        path = log_path(here, job, index)
        text = path.read_text(errors="replace") if path.exists() else None
        emit_json({"run": here.name, "job": job, "index": index, "path": str(path), "text": text})
        return
    for line in tail_log(here, job, index, follow=follow):
        click.echo(line, nl=False)


@run.command()
@click.argument("run_name", metavar="RUN")
@click.argument("job", required=False)
@runs_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be cancelled; cancel nothing.")
@json_option
def cancel(run_name: str, job: str | None, runs_root: Path, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Cancel what is alive of RUN, or of its JOB alone. What is stored stays.

    \b
    Examples:
      hpc run cancel my-run --yes
      hpc run cancel my-run router
    """
    from hpc.slurm import is_settled, states

    here = find_run(run_name, runs_root)
    elements = states(here, job)
    _require_job(here, job, elements)
    living = [element for element in elements if element.state == "BLOCKED" or not is_settled(element)]
    names = sorted({element.job for element in living})
    if living and not dry_run:
        if not yes:
            click.confirm(f"Cancel {len(living)} elements of {here.name} ({', '.join(names)})?", abort=True, err=True)
        _cancel(here, job)
    if as_json:
        emit_json({"run": here.name, "cancelled": not dry_run, "jobs": names, "elements": len(living)})
        return
    said = "would cancel" if dry_run else "cancelled"
    click.echo(f"{said} {len(living)} elements of {here.name}{': ' if names else ''}{', '.join(names)}", err=True)


@run.command()
@click.argument("run_name", metavar="RUN")
@runs_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
@json_option
def clean(run_name: str, runs_root: Path, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Remove the directory of RUN with all that it stored. Refused while anything of it may be alive.

    \b
    Examples:
      hpc run clean my-run --dry-run
      hpc run clean my-run --yes
    """
    import shutil

    from hpc.core.errors import HpcError, UsageError
    from hpc.slurm import is_settled, states

    here = find_run(run_name, runs_root)
    left = [element for element in states(here) if not element.gone]
    deadline = time.monotonic() + LEAVE_SECONDS
    while left and all(is_settled(element) for element in left) and time.monotonic() < deadline:
        time.sleep(0.1)  # their processes are writing their last lines
        left = [element for element in states(here) if not element.gone]
    living = [element for element in left if not is_settled(element)] or left
    if living:
        counts = _counts(Counter(element.state for element in living))
        raise UsageError(f"{here.name} is not over: {counts}", f"cancel it first: hpc run cancel {here.name}")
    files = [path for path in here.root.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    if not dry_run:
        if not yes:
            click.confirm(f"Remove {here.root} ({len(files)} files, {size / 1e6:.1f} MB)?", abort=True, err=True)
        doomed = here.root.with_name(f".{here.name}.removed")
        try:
            shutil.rmtree(doomed, ignore_errors=True)  # what an interrupted removal left
            here.root.rename(doomed)  # from one moment to the next it is no run any more
            shutil.rmtree(doomed)
        except OSError as error:
            rest = doomed if not here.root.exists() else here.root
            raise HpcError(
                f"cannot remove {error.filename or rest}: {error.strerror}",
                f"mend the permissions, then: rm -r {rest}",
            ) from error
    if as_json:
        emit_json({"run": here.name, "removed": not dry_run, "files": len(files), "bytes": size})
        return
    said = "would remove" if dry_run else "removed"
    click.echo(f"{said} {here.root} ({len(files)} files, {size / 1e6:.1f} MB)", err=True)


# ---- parts ------------------------------------------------------------------------------------


def _outcomes(here: RunDir) -> dict[str, int]:
    """How the episodes that are over have ended: a job may be done and its episode have failed."""
    from hpc.core import files
    from hpc.core.errors import HpcError

    counts: Counter[str] = Counter()
    for path in here.root.glob("episodes/*/result.json"):
        try:
            counts[str(files.read_json(path).get("status"))] += 1
        except (HpcError, AttributeError):
            counts["damaged"] += 1
    return dict(sorted(counts.items()))


def _ended(row: dict[str, Any]) -> str:
    return "damaged" if row["damaged"] else "done" if row["done"] else ""


def _require_job(here: RunDir, job: str | None, elements: Sequence[ElementState]) -> None:
    from hpc.core.errors import UsageError
    from hpc.slurm import jobs_of

    if job is not None and not elements:
        raise UsageError(f"{here.name} has no job {job!r}", f"its jobs: {', '.join(jobs_of(here)) or 'none'}")


def _cancel(here: RunDir, job: str | None) -> None:
    if job is None:
        from hpc.launch import cancel_run

        cancel_run(here)  # also tells what watches the run that it is over
    else:
        from hpc.slurm import cancel as cancel_jobs

        cancel_jobs(here, [job])


def _counts(counts: dict[str, int]) -> str:
    return " ".join(f"{state}={count}" for state, count in sorted(counts.items()))


def _show(here: RunDir, job: str | None, elements: Sequence[ElementState], as_json: bool) -> None:
    import msgspec

    if as_json:
        emit_json({"run": here.name, "elements": msgspec.to_builtins(elements)})
    elif job is not None:
        emit_table(
            ELEMENT_COLUMNS, [[e.job, e.index, e.state, e.attempt, e.job_id, e.host, e.reason] for e in elements]
        )
    else:
        emit_table(JOB_COLUMNS, _by_job(elements), empty=f"{here.name} has no jobs")


def _by_job(elements: Iterable[ElementState]) -> list[list[Any]]:
    """One row for each job, state and reason."""
    from hpc.slurm import array_spec

    groups: dict[tuple[str, str, str], list[ElementState]] = {}
    for element in elements:
        groups.setdefault((element.job, element.state, element.reason), []).append(element)
    rows = []
    for (job, state, reason), members in groups.items():
        ids = sorted({member.job_id.split("_")[0] for member in members})
        rows.append([job, state, len(members), array_spec([m.index for m in members]), ",".join(ids), reason])
    return rows
