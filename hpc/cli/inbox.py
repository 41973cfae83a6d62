"""``hpc inbox``: read alerts and answer them from this terminal, also over SSH."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.inbox_answers import claim, release, reply, resolve
from hpc.cli.inbox_parts import ask, builtins, open_inbox, run_of, run_option
from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option

if TYPE_CHECKING:
    from hpc.router.desk import AlertCard, GuidanceCard
    from hpc.rundir import RunDir

LAST_STEPS = 5


@click.group(invoke_without_command=True)
@run_option
@runs_option
@click.pass_context
def inbox(ctx: click.Context, run_name: str | None, runs_root: Path) -> None:
    """Read alerts and answer them from this terminal. Without a verb: the open alerts.

    Example: hpc inbox reply my-run-00003-a12 "for cobalt set anneal to 450C"
    """
    ctx.default_map = {verb: {"run_name": run_name, "runs_root": runs_root} for verb in inbox.commands}
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, run_name=run_name, runs_root=runs_root)


# ---- reading ----------------------------------------------------------------------------------


@inbox.command("list")
@run_option
@runs_option
@click.option("--all", "show_all", is_flag=True, help="Answered, closed and merged alerts, too.")
@click.option("--watch", is_flag=True, help="Stay and show each change as it comes.")
@json_option
def list_(
    run_name: str | None, runs_root: Path, show_all: bool = False, watch: bool = False, as_json: bool = False
) -> None:
    """List the open alerts, oldest first.

    Alerts that were held back from the channel (quiet hours, the hour's budget) are here as well.

    Example: hpc inbox list --watch
    """
    from hpc.cli.inbox_views import ALERT_COLUMNS, alert_cells

    if watch:
        from hpc.cli.inbox_watch import watch_alerts

        watch_alerts(find_run(run_name, runs_root), show_all=show_all, as_json=as_json)
        return
    with ask(run_name, runs_root) as client:
        alerts = client.alerts(all=show_all)
    if as_json:
        emit_json(builtins(alerts))
        return
    emit_table(ALERT_COLUMNS, [alert_cells(alert) for alert in alerts], empty="no open alerts")


@inbox.command()
@run_option
@runs_option
@click.option("--all", "show_all", is_flag=True, help="Answered, closed and merged alerts, too.")
@json_option
def watch(run_name: str | None, runs_root: Path, show_all: bool, as_json: bool) -> None:
    """Show the alerts live until ^C: a table on a terminal, else a line (with --json: a document) a change.

    Example: hpc inbox watch --run my-run
    """
    from hpc.cli.inbox_watch import watch_alerts

    watch_alerts(find_run(run_name, runs_root), show_all=show_all, as_json=as_json)


@inbox.command()
@run_option
@runs_option
@json_option
def episodes(run_name: str | None, runs_root: Path, as_json: bool) -> None:
    """List the episodes as the router knows them.

    Example: hpc inbox episodes
    """
    from hpc.cli.inbox_views import EPISODE_COLUMNS, episode_cells

    with ask(run_name, runs_root) as client:
        cards = client.episodes()
    if as_json:
        emit_json(builtins(cards))
        return
    emit_table(EPISODE_COLUMNS, [episode_cells(card) for card in cards])


@inbox.command()
@click.argument("target", metavar="ALERT_OR_EPISODE")
@run_option
@runs_option
@click.option("--last", type=click.IntRange(min=0), default=LAST_STEPS, show_default=True, help="Show so many steps.")
@click.option("--steps", "span", metavar="A:B", help="Show steps A to B, both included; `A:`, `:B` and `A` work too.")
@click.option("--search", metavar="REGEX", help="Show the steps that match, in the whole episode or within --steps.")
@click.option("--full", is_flag=True, help="Print texts whole instead of their first lines.")
@json_option
def show(
    target: str,
    run_name: str | None,
    runs_root: Path,
    last: int,
    span: str | None,
    search: str | None,
    full: bool,
    as_json: bool,
) -> None:
    """Show an alert (why it was raised, what became of the replies) and what its episode did.

    The steps come from the episode's trajectory, also when no router runs any more. An episode is named by
    its id or its index.

    \b
    Examples:
      hpc inbox show my-run-00003-a12
      hpc inbox show my-run-00003-a12 --search "traceback|nan"
      hpc inbox show 3 --steps 10:20 --full
    """
    from hpc.cli.inbox_history import pattern_of, print_history, read_history, span_of
    from hpc.cli.inbox_views import alert_lines
    from hpc.core.errors import RouterUnreachable, TrajectoryError, UsageError

    pattern = pattern_of(search) if search is not None else None
    wanted = span_of(span) if span is not None else None
    run = run_of(run_name, runs_root, target)
    if target.isdigit():
        target = f"{run.name}-{int(target):05d}"
    index = _index_of(run, target)
    trouble = ""
    cards: list[tuple[AlertCard, list[GuidanceCard]]] = []
    try:
        cards = _cards(run, target)
        if not cards and (index is None or not _is_episode(target)):
            raise UsageError(
                f"no alert {target}", "`hpc inbox list --all` names them, `hpc inbox episodes` the episodes"
            )
    except RouterUnreachable as error:
        if index is None:
            raise
        trouble = error.message
    steps: list[dict[str, Any]] = []
    try:
        if index is not None and (last or wanted or pattern):
            steps = read_history(run, index, last=last, span=wanted, search=pattern)
    except TrajectoryError as error:
        if not cards:
            raise
        trouble = error.message
    if as_json:
        shown = [{"alert": builtins(card), "replies": builtins(replies)} for card, replies in cards]
        emit_json({**(shown[0] if shown else {"alert": None, "replies": []}), "alerts": shown, "history": steps})
        return
    for card, replies in cards:
        for line in alert_lines(card, replies):
            click.echo(line)
        click.echo()
    if trouble:
        click.echo(f"note: {trouble}", err=True)
    if steps or (not trouble and (last or wanted or pattern)):
        print_history(steps, search=pattern, full=full)


@inbox.command()
@click.argument("run_argument", required=False, metavar="[RUN]")
@run_option
@runs_option
@json_option
def stats(run_argument: str | None, run_name: str | None, runs_root: Path, as_json: bool) -> None:
    """Show how well annotators and agents work together: figures of RUN, by detector and by annotator.

    They come from a file that the router renews every half minute and at its end, so they outlive it.
    docs/operations.md says how each is computed.

    Example: hpc inbox stats my-run
    """
    from hpc.cli.inbox_views import clock
    from hpc.core.errors import HpcError
    from hpc.evaluation.words import duration
    from hpc.router.annals import last_annals
    from hpc.router.stats import summarize
    from hpc.router.stats_tables import tables

    run = find_run(run_argument or run_name, runs_root)
    annals = last_annals(run)
    if annals is None:
        raise HpcError(
            f"no router has left figures of {run.name} yet", "the first come half a minute after its router starts"
        )
    summary = summarize(annals)
    if as_json:
        emit_json(builtins(summary))
        return
    terminal = sys.stdout.isatty()
    for number, table in enumerate(tables(summary, duration)):
        if terminal:
            click.echo(("\n" if number else "") + click.style(table.title, bold=True))
        emit_table(table.columns, table.rows if terminal else [[table.columns[0], *row] for row in table.rows])
    click.echo(f"{run.name} from {clock(summary.since)} to {clock(summary.until)}", err=True)


# ---- parts ------------------------------------------------------------------------------------


def _cards(run: RunDir, target: str) -> list[tuple[AlertCard, list[GuidanceCard]]]:
    """The alert, or the open alerts of the episode, with the replies to each.

    Raises:
        RouterUnreachable: no router serves the run.
    """
    with open_inbox(run) as client:
        names = [card.alert for card in client.alerts() if card.episode == target] if _is_episode(target) else [target]
        return [found for found in map(client.alert, names) if found is not None]


def _is_episode(target: str) -> bool:
    return re.fullmatch(r".+-\d{5,}", target) is not None


def _index_of(run: RunDir, target: str) -> int | None:
    """Index of the episode that an alert or episode id is of; None where it is of another run."""
    found = re.match(rf"{re.escape(run.name)}-(\d{{5,}})(-|$)", target)
    return int(found.group(1)) if found else None


for command in (reply, claim, release, resolve):
    inbox.add_command(command)
