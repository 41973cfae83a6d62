"""``hpc episodes``: submit agent episodes, follow them, resume and cancel them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option
from hpc.cli.plan import print_plan, tell_launch
from hpc.core.errors import HpcError, PartialFailure

if TYPE_CHECKING:
    from rich.table import Table

    from hpc.evaluation.overview import EpisodeRow
    from hpc.rundir import RunDir

COLUMNS = ["index", "state", "step", "drift", "alerts", "guidance", "score", "attempts", "note"]
REFRESH_SECONDS = 0.5


@click.group(invoke_without_command=True)
@runs_option
@click.pass_context
def episodes(ctx: click.Context, runs_root: Path) -> None:
    """Submit agent episodes and follow them. Without a verb: the status of the newest run.

    Example: hpc episodes submit run.episodes=16 cluster=slurm
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(status, run_name=None, runs_root=runs_root)


@episodes.command()
@click.argument("overrides", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print the batch scripts and the resolved configuration; submit nothing.")
@click.option("--watch", is_flag=True, help="Stay and show the live table until all episodes are over.")
@json_option
def submit(overrides: tuple[str, ...], dry_run: bool, watch: bool, as_json: bool) -> None:
    """Launch servers, a router and an array of episodes as jobs.

    Repeating the command with the same run.name and configuration submits only what is missing.

    \b
    Examples:
      hpc episodes submit cluster=local                # the tiny policy on this machine's CPU
      hpc episodes submit cluster=local run.name=first run.episodes=16 --watch
      hpc episodes submit cluster=slurm server=vllm runtime=cuda model=custom model.name=m model.path=/models/m
    """
    from hpc.config import compose
    from hpc.launch import launch_episodes

    launch = launch_episodes(compose("episodes", overrides), overrides=overrides, dry_run=dry_run)
    if dry_run:
        print_plan(launch, as_json)
        return
    tell_launch(launch, as_json)
    if watch:
        _watch(launch.run)
    elif not as_json:
        click.echo(launch.run.root)


@episodes.command()
@click.argument("run_name", required=False, metavar="[RUN]")
@runs_option
@click.option("--watch", is_flag=True, help="Keep the table on the screen until all episodes are over.")
@json_option
def status(run_name: str | None, runs_root: Path, watch: bool = False, as_json: bool = False) -> None:
    """Show where each episode of RUN is (the newest run without a name).

    Example: hpc episodes status my-run --watch
    """
    import msgspec

    from hpc.launch import router_is_missing

    run = find_run(run_name, runs_root)
    if watch and not as_json:
        _watch(run)
        return
    rows = _rows(run)
    if as_json:
        emit_json({"run": run.name, "episodes": msgspec.to_builtins(rows)})
        return
    emit_table(COLUMNS, [_cells(row) for row in rows])
    if any(row.state == "running" for row in rows) and router_is_missing(run):
        click.echo(f"no router is running: alerts wait with their agents\n  fix: hpc router start {run.name}", err=True)


@episodes.command()
@click.argument("run_name", metavar="RUN")
@click.argument("index", type=int)
@runs_option
@click.option("--follow", "-f", is_flag=True, help="Go on printing as the log grows.")
def logs(run_name: str, index: int, runs_root: Path, follow: bool) -> None:
    """Print the job log of the episode INDEX of RUN.

    Example: hpc episodes logs my-run 3 --follow
    """
    from hpc.launch import element_of_episode
    from hpc.slurm import tail_log

    run = find_run(run_name, runs_root)
    for line in tail_log(run, "episodes", element_of_episode(run, index), follow=follow):
        click.echo(line, nl=False)


@episodes.command()
@click.argument("run_name", metavar="RUN")
@runs_option
@click.option("--watch", is_flag=True, help="Stay and show the live table.")
@json_option
def resume(run_name: str, runs_root: Path, watch: bool, as_json: bool) -> None:
    """Submit again whatever of RUN is not over: episodes go on at the step where they stopped.

    Example: hpc episodes resume my-run
    """
    from hpc.launch import resume_episodes

    launch = resume_episodes(find_run(run_name, runs_root))
    tell_launch(launch, as_json)
    if watch:
        _watch(launch.run)


@episodes.command()
@click.argument("run_name", metavar="RUN")
@runs_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def cancel(run_name: str, runs_root: Path, yes: bool) -> None:
    """Cancel the episodes of RUN, its servers and its router. What is stored stays.

    Example: hpc episodes cancel my-run --yes
    """
    from hpc.launch import cancel_run

    run = find_run(run_name, runs_root)
    if not yes:
        click.confirm(f"Cancel every job of {run.name}?", abort=True)
    cancelled = cancel_run(run)
    click.echo(f"cancelled {cancelled} jobs of {run.name}; go on with: hpc episodes resume {run.name}", err=True)


@episodes.command()
@click.argument("run_name", required=False, metavar="[RUN]")
@runs_option
def report(run_name: str | None, runs_root: Path) -> None:
    """Write the HTML report of RUN and print its path.

    Example: hpc episodes report my-run
    """
    from hpc.evaluation.report import Section, write_report
    from hpc.evaluation.words import duration
    from hpc.router.annals import last_annals
    from hpc.router.stats import summarize
    from hpc.router.stats_tables import tables

    run = find_run(run_name, runs_root)
    annals = last_annals(run)
    found = tables(summarize(annals), duration) if annals is not None else []
    sections = [Section(title=table.title, columns=table.columns, rows=table.rows) for table in found]
    click.echo(write_report(run, sections))


# ---- the live table ---------------------------------------------------------------------------


def _rows(run: RunDir) -> list[EpisodeRow]:
    from hpc.evaluation.overview import overview
    from hpc.launch import episode_states

    return overview(run, episode_states(run))


def _cells(row: EpisodeRow) -> list[str]:
    return [
        str(row.index),
        row.state,
        str(row.step),
        f"{row.drift:.2f}",
        str(row.alerts),
        str(row.guidance),
        "" if row.score is None else f"{row.score:.1f}",
        str(row.attempts),
        row.note,
    ]


def _table(run: RunDir, rows: list[EpisodeRow]) -> Table:
    from rich.table import Table

    from hpc.launch import services

    table = Table(title=f"{run.name}   {services(run)}", title_justify="left", box=None, header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("state", "note") else "right", no_wrap=column != "note")
    for row in rows:
        table.add_row(*_cells(row), style=_style(row))
    return table


def _style(row: EpisodeRow) -> str:
    if row.state == "finished":
        return "green"
    if row.state in ("failed", "stopped", "cancelled", "blocked", "timeout"):
        return "red"
    return "yellow" if row.drift >= 0.5 else ""


def _until_over(run: RunDir) -> Iterator[list[EpisodeRow]]:
    from hpc.evaluation.overview import is_over

    while True:
        done = run.done.exists()  # looked at before the rows, so that the last rows are final
        rows = _rows(run)
        yield rows
        if done or is_over(rows):
            return
        time.sleep(REFRESH_SECONDS)


def _watch(run: RunDir) -> None:
    """The live table on a terminal; a line at each change of state elsewhere.

    Raises:
        PartialFailure: some episodes failed; HpcError: all of them.
    """
    rows = _follow(run)
    failed = [row.index for row in rows if row.state not in ("finished", "truncated", "stopped")]
    if failed:
        kind = HpcError if len(failed) == len(rows) else PartialFailure
        named = ", ".join(map(str, failed[:10])) + ("…" if len(failed) > 10 else "")
        raise kind(
            f"{len(failed)} of {len(rows)} episodes did not end well: {named}", f"hpc episodes status {run.name}"
        )


def _follow(run: RunDir) -> list[EpisodeRow]:
    rows: list[EpisodeRow] = []
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        shown: dict[int, tuple[str, int, int]] = {}
        for rows in _until_over(run):
            for row in rows:
                key = (row.state, row.alerts, row.guidance)
                if shown.get(row.index) != key:
                    shown[row.index] = key
                    click.echo("  ".join(f"{name}={cell}" for name, cell in zip(COLUMNS, _cells(row), strict=True)))
        return rows
    with Live(console=console, refresh_per_second=4) as live:
        for rows in _until_over(run):
            live.update(_table(run, rows))
    return rows
