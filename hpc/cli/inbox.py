"""``hpc inbox``: read alerts and answer them from this terminal."""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option

if TYPE_CHECKING:
    from hpc.router.client import InboxClient
    from hpc.router.desk import AlertCard, GuidanceCard

COLUMNS = ["alert", "state", "priority", "detector", "score", "step", "age", "reason"]
WATCH_SECONDS = 2.0

run_option = click.option("--run", "run_name", metavar="RUN", help="The run; without it the newest one.")


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


@inbox.command("list")
@run_option
@runs_option
@click.option("--all", "show_all", is_flag=True, help="Answered and closed alerts, too.")
@click.option("--watch", is_flag=True, help="Stay and print each alert as it comes.")
@json_option
def list_(
    run_name: str | None, runs_root: Path, show_all: bool = False, watch: bool = False, as_json: bool = False
) -> None:
    """List the open alerts, oldest first.

    Example: hpc inbox list --watch
    """
    with _client(run_name, runs_root) as client:
        if watch:
            _watch(client, show_all, as_json)
            return
        alerts = client.alerts(all=show_all)
    if as_json:
        emit_json(_builtins(alerts))
        return
    emit_table(COLUMNS, [_cells(alert) for alert in alerts], empty="no open alerts")


@inbox.command()
@run_option
@runs_option
@json_option
def episodes(run_name: str | None, runs_root: Path, as_json: bool) -> None:
    """List the episodes as the router knows them.

    Example: hpc inbox episodes
    """
    with _client(run_name, runs_root) as client:
        cards = client.episodes()
    if as_json:
        emit_json(_builtins(cards))
        return
    emit_table(
        ["episode", "state", "step", "drift", "score", "open alerts", "seen"],
        [
            [c.episode, c.state, c.step, f"{c.drift:.2f}", _number(c.score), c.open_alerts, _age(c.seen_at)]
            for c in cards
        ],
    )


@inbox.command()
@click.argument("alert")
@run_option
@runs_option
@json_option
def show(alert: str, run_name: str | None, runs_root: Path, as_json: bool) -> None:
    """Show ALERT: why it was raised, the last steps, and what became of the replies.

    Example: hpc inbox show my-run-00003-a12
    """
    from hpc.core.errors import UsageError

    with _client(run_name, runs_root, alert) as client:
        found = client.alert(alert)
    if found is None:
        raise UsageError(f"no alert {alert}", "`hpc inbox list --all` names them")
    card, replies = found
    if as_json:
        emit_json({"alert": _builtins(card), "replies": _builtins(replies)})
        return
    for line in _describe(card, replies):
        click.echo(line)


@inbox.command()
@click.argument("target", metavar="ALERT_OR_EPISODE")
@click.argument("text", required=False, default="")
@run_option
@runs_option
@click.option("--episode", "is_episode", is_flag=True, help="The target is an episode's index or id.")
@click.option(
    "--kind",
    type=click.Choice(["knowledge", "strategy", "correction"]),
    default="strategy",
    show_default=True,
    help="What the reply gives the agent.",
)
@click.option("--control", type=click.Choice(["pause", "resume", "stop"]), help="Pause, resume or stop the episode.")
@click.option("--as", "annotator", default=None, help="Your name; by default your login.")
@json_option
def reply(
    target: str,
    text: str,
    run_name: str | None,
    runs_root: Path,
    is_episode: bool,
    kind: Any,
    control: Any,
    annotator: str | None,
    as_json: bool,
) -> None:
    """Answer an alert, or guide an episode unasked. The agent reads it before its next step.

    \b
    Examples:
      hpc inbox reply my-run-00003-a12 "for cobalt set anneal to 450C" --kind knowledge
      hpc inbox reply --episode 3 "read the log before you rerun"
      hpc inbox reply --episode 3 --control pause
    """
    from hpc.core.errors import UsageError

    if not text.strip() and control is None:
        raise UsageError("there is no text", "give it in quotes after the target, or use --control")
    if is_episode and target.isdigit():
        target = f"{find_run(run_name, runs_root).name}-{int(target):05d}"
    with _client(run_name, runs_root, target) as client:
        verdict, taken = client.reply(
            target, text, annotator=annotator or getpass.getuser(), kind=kind, control=control
        )
    if verdict == "unknown":
        raise UsageError(
            f"no alert and no episode {target}", "`hpc inbox list --all` and `hpc inbox episodes` name them"
        )
    if as_json:
        emit_json({"verdict": verdict, "reply": _builtins(taken)})
        return
    episode = taken.episode if taken is not None else target
    click.echo(
        f"too late: {episode} has ended" if verdict == "too_late" else f"accepted, on its way to {episode}", err=True
    )


@inbox.command()
@click.argument("alert")
@run_option
@runs_option
@click.option("--false-alarm", is_flag=True, help="There was nothing wrong.")
@click.option("--as", "annotator", default=None, help="Your name; by default your login.")
def resolve(alert: str, run_name: str | None, runs_root: Path, false_alarm: bool, annotator: str | None) -> None:
    """Close ALERT without a reply.

    Example: hpc inbox resolve my-run-00003-a12 --false-alarm
    """
    from hpc.core.errors import UsageError

    with _client(run_name, runs_root, alert) as client:
        status = client.resolve(
            alert, annotator=annotator or getpass.getuser(), verdict="false_alarm" if false_alarm else "resolved"
        )
    if status != "ok":
        reason = "is not open any more" if status == "not_open" else "does not exist"
        raise UsageError(f"alert {alert} {reason}", "`hpc inbox list --all` shows each alert's state")
    click.echo(f"{alert} is closed", err=True)


# ---- parts ------------------------------------------------------------------------------------


def _client(run_name: str | None, runs_root: Path, target: str = "") -> InboxClient:
    """A connection to the named run's router; else to that of the run which ``target``, an alert or
    episode, is of; else to the newest one's."""
    from hpc.router.client import InboxClient

    if run_name is None and (found := re.match(r"(.+)-\d{5,}(-|$)", target)):
        named = found.group(1)
        run_name = named if (runs_root / named / "config.json").is_file() else None
    return InboxClient(find_run(run_name, runs_root))


def _watch(client: InboxClient, show_all: bool, as_json: bool) -> None:
    shown: set[tuple[str, str]] = set()
    while True:
        for alert in client.alerts(all=show_all):
            if (alert.alert, alert.state) in shown:
                continue
            shown.add((alert.alert, alert.state))
            if as_json:
                import json

                click.echo(json.dumps(_builtins(alert), ensure_ascii=False))  # one line an alert
            else:
                click.echo("  ".join(f"{name}={cell}" for name, cell in zip(COLUMNS, _cells(alert), strict=True)))
        time.sleep(WATCH_SECONDS)


def _describe(alert: AlertCard, replies: Sequence[GuidanceCard]) -> list[str]:
    from hpc.router.annotators.console import plain

    lines = [
        f"{alert.alert}  {alert.state}",
        f"episode   {alert.episode}  task {alert.task}",
        f"why       {alert.reason}",
        f"          {alert.detector} {alert.score:.2f} at step {alert.step}, {_age(alert.sent_at)} ago",
    ]
    for step in alert.evidence:
        lines += [
            f"step {step.step:<5}{step.action}",
            *(f"          | {line}" for line in step.observation.splitlines()),
        ]
    lines += [f"earlier   {text}" for text in alert.earlier_guidance]
    for given in replies:
        at = f" at step {given.applied_step}" if given.applied_step is not None else ""
        lines.append(f"reply     {given.annotator}: {given.text}  [{given.state}{at}]")
    return [plain(line) for line in lines]


def _cells(alert: AlertCard) -> list[str]:
    from hpc.router.annotators.console import plain

    return [
        alert.alert,
        alert.state,
        alert.priority,
        alert.detector,
        f"{alert.score:.2f}",
        str(alert.step),
        _age(alert.sent_at),
        plain(alert.reason),
    ]


def _age(at: float) -> str:
    seconds = max(0.0, time.time() - at)
    if seconds < 120:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 7200 else f"{seconds / 3600:.0f}h"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _builtins(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)
