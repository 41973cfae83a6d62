"""The verbs of ``hpc inbox`` that change something: reply, claim, release, resolve."""

from __future__ import annotations

import getpass
import re
import sys
import time
from pathlib import Path
from typing import Any

import click

from hpc.cli.inbox_parts import as_option, ask, builtins, open_inbox, run_of, run_option
from hpc.cli.output import emit_json, json_option, runs_option


@click.command()
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
@click.option("--until-step", type=click.IntRange(min=0), help="The agent shall not read it after this step.")
@click.option(
    "--until", metavar="WHEN", help="Nor after this time: 30m, 2h, 1d from now, 18:30 or 2026-03-01T18:30 here."
)
@click.option("--replaces", metavar="REPLY", help="Id of an earlier reply (gu-…) that this one corrects.")
@as_option
@json_option
def reply(
    target: str,
    text: str,
    run_name: str | None,
    runs_root: Path,
    is_episode: bool,
    kind: Any,
    control: Any,
    until_step: int | None,
    until: str | None,
    replaces: str | None,
    annotator: str | None,
    as_json: bool,
) -> None:
    """Answer an alert, or guide an episode unasked. The agent reads it before its next step.

    TEXT may be `-`: it is read from standard input. A correction takes the place of what the agent has not
    read yet.

    \b
    Examples:
      hpc inbox reply my-run-00003-a12 "for cobalt set anneal to 450C" --kind knowledge
      hpc inbox reply --episode 3 "read the log before you rerun" --until-step 40
      hpc inbox reply --episode 3 - < advice.txt
      hpc inbox reply --episode 3 --control pause
    """
    from hpc.core.errors import UsageError

    if text == "-":
        text = sys.stdin.read().strip()
    if not text.strip() and control is None:
        raise UsageError("there is no text", "give it in quotes after the target, or use --control")
    run = run_of(run_name, runs_root, target)
    if is_episode and target.isdigit():
        target = f"{run.name}-{int(target):05d}"
    valid_until = _time_of(until, time.time()) if until is not None else None
    with open_inbox(run) as client:
        verdict, taken = client.reply(
            target,
            text,
            annotator=annotator or getpass.getuser(),
            kind=kind,
            control=control,
            valid_until_step=until_step,
            valid_until=valid_until,
            replaces=replaces,
        )
    if verdict == "unknown":
        raise UsageError(
            f"no alert and no episode {target}", "`hpc inbox list --all` and `hpc inbox episodes` name them"
        )
    if replaces is not None and taken is not None and taken.replaces is None:
        click.echo(f"note: {taken.episode} has no reply {replaces}; this one goes out beside all others", err=True)
    if as_json:
        emit_json({"verdict": verdict, "reply": builtins(taken)})
        return
    episode = taken.episode if taken is not None else target
    click.echo(
        f"too late: {episode} has ended" if verdict == "too_late" else f"accepted, on its way to {episode}", err=True
    )
    if taken is not None:
        click.echo(taken.guidance)


@click.command()
@click.argument("alert")
@run_option
@runs_option
@as_option
@json_option
def claim(alert: str, run_name: str | None, runs_root: Path, annotator: str | None, as_json: bool) -> None:
    """Say that you will answer ALERT: the others see it, and nobody else is called. The first claim wins.

    Exit code 1 where somebody else has it. A claim ends by itself after half an hour (by default); claiming
    again prolongs it.

    Example: hpc inbox claim my-run-00003-a12
    """
    from hpc.cli.inbox_views import clock
    from hpc.core.errors import HpcError

    with ask(run_name, runs_root, alert) as client:
        status, card = client.claim(alert, annotator=annotator or getpass.getuser())
    if as_json:
        emit_json({"status": status, "alert": builtins(card)})
    until = clock(card.claimed_until) if card is not None and card.claimed_until is not None else "?"
    if card is not None and status == "held":
        raise HpcError(f"{card.owner} has claimed {card.alert} until {until}", "you may answer it all the same")
    _require_done(status, alert)
    click.echo(f"{alert} is yours until {until}", err=True)


@click.command()
@click.argument("alert")
@run_option
@runs_option
@as_option
@json_option
def release(alert: str, run_name: str | None, runs_root: Path, annotator: str | None, as_json: bool) -> None:
    """Give your claim on ALERT up.

    Example: hpc inbox release my-run-00003-a12
    """
    from hpc.core.errors import UsageError

    person = annotator or getpass.getuser()
    with ask(run_name, runs_root, alert) as client:
        status, card = client.release(alert, annotator=person)
    if as_json:
        emit_json({"status": status, "alert": builtins(card)})
    if status == "not_open" and card is not None and card.state == "open":
        owner = card.owner or "nobody"
        raise UsageError(f"{alert} belongs to {owner}, not to {person}", "--as NAME gives another's claim up")
    _require_done(status, alert)
    click.echo(f"{alert} belongs to nobody", err=True)


@click.command()
@click.argument("alert")
@run_option
@runs_option
@click.option("--false-alarm", is_flag=True, help="There was nothing wrong.")
@as_option
@json_option
def resolve(
    alert: str, run_name: str | None, runs_root: Path, false_alarm: bool, annotator: str | None, as_json: bool
) -> None:
    """Close ALERT without a reply. A false alarm is kept as a label of the alert.

    Example: hpc inbox resolve my-run-00003-a12 --false-alarm
    """
    verdict: Any = "false_alarm" if false_alarm else "resolved"
    with ask(run_name, runs_root, alert) as client:
        status = client.resolve(alert, annotator=annotator or getpass.getuser(), verdict=verdict)
    _require_done(status, alert)
    if as_json:
        emit_json({"status": status, "alert": alert, "verdict": verdict})
        return
    click.echo(f"{alert} is closed", err=True)


# ---- parts ------------------------------------------------------------------------------------


def _require_done(status: str, alert: str) -> None:
    from hpc.core.errors import UsageError

    if status != "ok":
        reason = "is not open any more" if status == "not_open" else "does not exist"
        raise UsageError(f"alert {alert} {reason}", "`hpc inbox list --all` shows each alert's state")


def _time_of(text: str, now: float) -> float:
    """Unix time of ``30m``, ``2h``, ``1d`` from ``now``, of the next ``18:30`` here, or of an ISO time here.

    Raises:
        UsageError: it is none of these, or past.
    """
    import datetime

    from hpc.core.errors import UsageError

    span = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if span:
        return now + float(span[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[span[2]]
    here = datetime.datetime.fromtimestamp(now)
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}", text.strip()):
            hour, minute = map(int, text.strip().split(":"))
            at = here.replace(hour=hour, minute=minute, second=0, microsecond=0)
            at += datetime.timedelta(days=1 if at <= here else 0)
        else:
            at = datetime.datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UsageError(f"--until {text} is no time", "write 30m, 2h, 1d, 18:30 or 2026-03-01T18:30") from error
    if at.timestamp() <= now:
        raise UsageError(f"--until {text} is past", "write a time to come, such as 30m")
    return at.timestamp()
