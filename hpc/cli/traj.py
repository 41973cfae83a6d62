"""``hpc traj``: list, show and check stored trajectories, also of episodes that still run."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option
from hpc.cli.traj_exchange import export_command, import_command

if TYPE_CHECKING:
    from rich.console import Console

    from hpc.rundir import RunDir
    from hpc.trajectories.check import Report
    from hpc.trajectories.reader import Trajectory
    from hpc.trajectories.records import Record

COLUMNS = ["index", "status", "steps", "score", "best", "alerts", "guidance", "attempts", "task", "note"]
SORTS = ("index", "status", "steps", "score", "alerts", "guidance", "attempts")
STATUSES = ("running", "finished", "truncated", "failed", "stopped", "damaged")
ANSWER_LINES, OBSERVATION_LINES, LINE_CHARACTERS = 4, 8, 400
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@click.group(invoke_without_command=True)
@runs_option
@click.pass_context
def traj(ctx: click.Context, runs_root: Path) -> None:
    """List, show and check stored trajectories. Without a verb: list those of the newest run.

    Example: hpc traj show my-run/3 --steps 10:20
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(ls, run_name=None, runs_root=runs_root)


traj.add_command(export_command)
traj.add_command(import_command)


@traj.command()
@click.argument("run_name", required=False, metavar="[RUN]")
@runs_option
@click.option("--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="Only these; may be repeated.")
@click.option("--sort", type=click.Choice(SORTS), default="index", show_default=True, help="Order of the rows.")
@json_option
def ls(
    run_name: str | None,
    runs_root: Path,
    statuses: tuple[str, ...] = (),
    sort: str = "index",
    as_json: bool = False,
) -> None:
    """List the trajectories of RUN (the newest run without a name).

    Example: hpc traj ls my-run --status failed --sort steps
    """
    from hpc.trajectories.reader import stored_episodes

    run = find_run(run_name, runs_root)
    rows = [_row(run, index) for index in stored_episodes(run)]
    rows = [row for row in rows if not statuses or row["status"] in statuses]
    rows.sort(key=lambda row: (row[sort] is None, row[sort] or 0 if sort != "status" else row[sort]))
    if as_json:
        emit_json(rows)
        return
    emit_table(COLUMNS, [[_number(row[column]) for column in COLUMNS] for row in rows], empty="no trajectories yet")


def _row(run: RunDir, index: int) -> dict[str, Any]:
    from hpc.core.errors import TrajectoryError
    from hpc.trajectories.reader import Trajectory, path_of

    row: dict[str, Any] = {**dict.fromkeys(COLUMNS), "index": index, "status": "damaged", "note": ""}
    try:
        with Trajectory.open((run, index)) as trajectory:
            row |= {"path": str(trajectory.path), "sealed": trajectory.sealed}
            summary = trajectory.summary()
    except TrajectoryError as error:
        path = str(path_of(run, index))
        return row | {"path": path, "sealed": None, "note": error.message.removeprefix(f"{path} is damaged: ")}
    outcome = summary["outcome"] or {}
    return row | {
        "status": summary["status"],
        "steps": summary["steps"],
        "score": outcome.get("final_score"),
        "best": summary["best_score"],
        "alerts": len(summary["alerts"]),
        "guidance": len(summary["guidance"]),
        "attempts": summary["attempts"],
        "task": summary["task"],
        "episode_id": summary["episode_id"],
        "note": outcome.get("reason", ""),
    }


@traj.command()
@click.argument("target", metavar="FILE|RUN/INDEX")
@runs_option
@click.option("--steps", "span", metavar="A:B", help="Only steps A to B, both included; `A:`, `:B` and `A` work too.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing while the episode runs (with --json: one a line).")
@click.option("--full", is_flag=True, help="Print texts whole instead of their first lines.")
@json_option
@click.pass_context
def show(
    ctx: click.Context, target: str, runs_root: Path, span: str | None, follow: bool, full: bool, as_json: bool
) -> None:
    """Show one trajectory: what the agent did, when it drifted, and who helped.

    With --json the steps are counted, and listed in `step_records` only if --steps is given.

    \b
    Examples:
      hpc traj show my-run/3
      hpc traj show runs/my-run/trajectories/00003.h5 --steps 10:20 --full
      hpc traj show my-run/3 --follow
    """
    from hpc.trajectories.reader import Trajectory
    from hpc.trajectories.reader import follow as follow_records

    found = _find(target, runs_root)
    wanted = _span(span)
    if follow:
        from hpc.core.errors import UsageError

        if not isinstance(found, tuple):
            raise UsageError("--follow needs an episode, not a file", "name it as RUN/INDEX")
        _print(_within(follow_records(*found), wanted), as_json=as_json, full=full)
        return
    with Trajectory.open(found) as trajectory:
        if as_json:
            emit_json(_as_json(trajectory, wanted))
            return
        _print_heading(trajectory)
        _print(_within(trajectory.records(), wanted), as_json=False, full=full)


@traj.command()
@click.argument("targets", nargs=-1, required=True, metavar="FILE|RUN/INDEX…")
@runs_option
@json_option
@click.pass_context
def check(ctx: click.Context, targets: tuple[str, ...], runs_root: Path, as_json: bool) -> None:
    """Verify trajectories byte by byte and say what is whole.

    Exit code: 0 all whole, 3 something damaged but partly whole, 1 nothing readable.

    Example: hpc traj check runs/my-run/trajectories/*.h5
    """
    import msgspec

    from hpc.trajectories.check import check as check_file
    from hpc.trajectories.reader import path_of

    found = [_find(target, runs_root) for target in targets]
    reports = [check_file(path_of(*place) if isinstance(place, tuple) else place) for place in found]
    if as_json:
        emit_json(msgspec.to_builtins(reports))
    else:
        for report in reports:
            _print_report(report)
    states = {report.state for report in reports}
    ctx.exit(0 if states == {"whole"} else 1 if states == {"unreadable"} else 3)


def _print_report(report: Report) -> None:
    click.echo(f"{report.state}  {report.path}  {report.form}, {report.steps} steps, {report.records} records whole")
    for finding in report.findings:
        click.echo(f"  {finding.kind}: {finding.detail}")
    for note in report.notes:
        click.echo(f"  note: {note}")


# ---- what to show -----------------------------------------------------------------------------


def _find(target: str, runs_root: Path) -> Path | tuple[RunDir, int]:
    """A file, or an episode named RUN/INDEX."""
    path = Path(target)
    run_name, _, index = target.rpartition("/")
    if not path.is_file() and run_name and index.isdecimal():
        return find_run(run_name, runs_root), int(index)
    return path


def _span(text: str | None) -> tuple[int, int] | None:
    """First and last step asked for; the last is huge when left open."""
    if text is None:
        return None
    from hpc.core.errors import UsageError

    match = re.fullmatch(r"(\d*)(:?)(\d*)", text.strip())
    if not match or not (match[1] or match[3]):
        raise UsageError(f"--steps {text} is not a range", "write 3:8, 3:, :8 or 3")
    first = int(match[1] or 1)
    last = int(match[3]) if match[3] else 2**62 if match[2] else first
    return first, last


def _within(records: Iterable[Record], span: tuple[int, int] | None) -> Iterator[Record]:
    from hpc.trajectories.records import ActionTaken, AlertRaised, GuidanceApplied, Observed

    for record in records:
        if span is None:
            yield record
        elif isinstance(record, ActionTaken | Observed | AlertRaised | GuidanceApplied):
            step = record.applied_step if isinstance(record, GuidanceApplied) else record.step
            if span[0] <= step <= span[1]:
                yield record


def _as_json(trajectory: Trajectory, span: tuple[int, int] | None) -> dict[str, Any]:
    import msgspec

    value = trajectory.summary()
    if span is not None:
        value["step_records"] = [
            {
                "step": step.action.step,
                "action": msgspec.to_builtins(step.action),
                "observed": msgspec.to_builtins(step.observed),
            }
            for step in trajectory.steps[max(0, span[0] - 1) : span[1]]
        ]
    return value


# ---- for people -------------------------------------------------------------------------------


def _print_heading(trajectory: Trajectory) -> None:
    summary = trajectory.summary()
    outcome = summary["outcome"] or {}
    click.echo(f"{summary['episode_id']}  {summary['task']} ({summary['split']}, seed {summary['seed']})")
    parts = [
        str(summary["status"]),
        f"{summary['steps']} steps",
        f"score {_number(outcome.get('final_score'), '–')}",
        f"best {_number(summary['best_score'], '–')}",
        f"{len(summary['alerts'])} alerts",
        f"{len(summary['guidance'])} guidance",
        f"{summary['attempts']} attempts",
    ]
    click.echo(" · ".join(parts))


def _print(records: Iterable[Record], *, as_json: bool, full: bool) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    for record in records:
        if as_json:
            import msgspec

            click.echo(json.dumps(msgspec.to_builtins(record), ensure_ascii=False))
        else:
            _print_record(console, record, full)


def _print_record(console: Console, record: Record, full: bool) -> None:
    from rich.text import Text

    from hpc.trajectories import records as kinds

    def line(text: str, style: str = "", indent: int = 0) -> None:
        console.print(Text(" " * indent + _CONTROL.sub("�", text), style=style))

    match record:
        case kinds.AttemptStarted():
            where = f" on {record.host}" + (f", job {record.job_id}" if record.job_id else "")
            line(f"── attempt {record.epoch}{where}, {_clock(record.at)}", "blue")
        case kinds.ActionTaken():
            arguments = json.dumps(record.action.arguments, ensure_ascii=False)
            line("")
            line(f"{record.step}  {record.action.name}  {arguments if full else _shorten(arguments)}", "bold")
            for text in _lines(record.text, ANSWER_LINES, full):
                line(text, "dim", 3)
            if record.action.problem:
                line(f"malformed: {record.action.problem}", "yellow", 3)
        case kinds.Observed():
            observation = record.observation
            for text in _lines(observation.text, OBSERVATION_LINES, full):
                line(text, "red" if observation.is_error else "", 3)
            if observation.evaluation is not None:
                line(f"evaluated: {observation.evaluation.score:.1f} {observation.evaluation.message}", "green", 3)
        case kinds.AlertRaised():
            line(f"▲ {record.detector} {record.score:.2f} after step {record.step}: {record.reason}", "yellow")
        case kinds.GuidanceApplied():
            took = f"{record.applied_at - record.sent_at:.1f} s after it was sent"
            line(f"● {record.annotator} ({record.kind}), applied after step {record.applied_step}, {took}", "magenta")
            for text in _lines(record.text, OBSERVATION_LINES, full):
                line(text, "magenta", 3)
        case kinds.OutcomeReached():
            score = "" if record.final_score is None else f", score {record.final_score:.1f}"
            line("")
            line(f"── {record.status} after {record.steps} steps{score}: {record.reason}", "bold")


def _lines(text: str, limit: int, full: bool) -> list[str]:
    """The lines of a text, cut in the middle of the list and at the end of each unless ``full``."""
    lines = text.splitlines()
    if full:
        return lines
    if len(lines) > limit:
        head = limit // 2
        lines = [*lines[:head], f"… {len(lines) - limit} lines …", *lines[head - limit :]]
    return [_shorten(line) for line in lines]


def _shorten(text: str) -> str:
    return text if len(text) <= LINE_CHARACTERS else text[: LINE_CHARACTERS - 1] + "…"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _number(value: Any, missing: str = "") -> str:
    if value is None:
        return missing
    return f"{value:.1f}" if isinstance(value, float) else str(value)
