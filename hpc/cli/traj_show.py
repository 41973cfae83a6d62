"""``hpc traj show``: one trajectory for the eyes, in the terminal or as a page."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hpc.cli.output import emit_json, json_option, runs_option
from hpc.cli.traj_find import EVERYTHING, find_trajectory, range_of

if TYPE_CHECKING:
    from hpc.cli.traj_text import Printer
    from hpc.evaluation.rows import Label
    from hpc.rundir import RunDir
    from hpc.trajectories.reader import Trajectory
    from hpc.trajectories.records import Record

Span = tuple[float | None, float | None]


@click.command()
@click.argument("target", metavar="FILE|RUN/INDEX")
@runs_option
@click.option("--steps", "span", callback=range_of, metavar="A:B", help="Only these steps; `A:`, `:B`, `A` too.")
@click.option("--search", "pattern", metavar="REGEX", help="Only steps with a match in action, answer or observation.")
@click.option("--ignore-case", "-i", is_flag=True, help="Search without regard to upper and lower case.")
@click.option("--context", type=click.IntRange(min=0), default=0, metavar="N", help="Also N steps around each match.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing while the episode runs (with --json: one a line).")
@click.option("--full", is_flag=True, help="Print texts whole instead of their first and last lines.")
@click.option("--pager/--no-pager", default=True, help="Page on a terminal.  [default: --pager]")
@click.option("--html", "as_page", is_flag=True, help="Write one self-contained page instead.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the page.")
@json_option
def show(
    target: str,
    runs_root: Path,
    span: Span,
    pattern: str | None,
    ignore_case: bool,
    context: int,
    follow: bool,
    full: bool,
    pager: bool,
    as_page: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Show one trajectory: what the agent did, when it drifted, and who helped.

    With --json the steps are counted, and listed in `step_records` only if --steps or --search is given.
    --html writes a page that needs no network: of RUN/INDEX into the run's report folder, of a FILE into
    this folder, or to --out.

    \b
    Examples:
      hpc traj show my-run/3
      hpc traj show runs/my-run/trajectories/00003.h5 --steps 10:20 --full
      hpc traj show my-run/3 --search 'out of memory' -i --context 2
      hpc traj show my-run/3 --follow
      hpc traj show my-run/3 --html --out agent.html
    """
    from hpc.core.errors import UsageError
    from hpc.trajectories.reader import Trajectory

    found = find_trajectory(target, runs_root)
    search = _pattern(pattern, ignore_case=ignore_case)
    if out is not None and not as_page:
        raise UsageError("--out is for the page", "add --html")
    if as_page:
        if follow or as_json or search is not None or span != EVERYTHING:
            raise UsageError("--html shows all steps of a trajectory", "leave out the other options")
        click.echo(str(_write_page(found, out)))
        return
    if follow:
        if not isinstance(found, tuple):
            raise UsageError("--follow needs an episode, not a file", "name it as RUN/INDEX")
        _follow(found, span, search, full=full, as_json=as_json)
        return
    with Trajectory.open(found) as trajectory:
        chosen = _chosen(trajectory, span, search, context)
        if as_json:
            emit_json(_as_json(trajectory, chosen))
        elif pager and sys.stdout.isatty():
            os.environ.setdefault("LESS", "-FRX")
            click.echo_via_pager(_pages(trajectory, chosen, search, full=full), color=True)  # NO_COLOR is heard there
        else:
            from rich.console import Console

            from hpc.cli.traj_text import Printer

            for _ in _story(Printer(Console(highlight=False), full=full, search=search), trajectory, chosen):
                pass
        if chosen is not None and search is not None and not chosen:
            click.echo(f"no step matches {pattern}", err=True)


# ---- which steps ------------------------------------------------------------------------------


def _pattern(text: str | None, *, ignore_case: bool) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        from hpc.core.errors import UsageError

        raise UsageError(f"--search {text} is no regular expression: {error}", "escape it, e.g. \\[ for [") from error


def _chosen(trajectory: Trajectory, span: Span, search: re.Pattern[str] | None, context: int) -> set[int] | None:
    """Numbers of the steps to show; None for all."""
    if search is None and span == EVERYTHING:
        return None
    numbers = {number for number in range(1, len(trajectory.steps) + 1) if _inside(number, span)}
    if search is None:
        return numbers
    found = {
        number
        for record in trajectory.records()
        if (number := _step_of(record)) in numbers and _matches(record, search)
    }
    return {near for number in found for near in range(number - context, number + context + 1)} & numbers


def _inside(number: int, span: Span) -> bool:
    low, high = span
    return (low is None or number >= low) and (high is None or number <= high)


def _step_of(record: Record) -> int | None:
    """The step that a record belongs to; of an attempt or an outcome none."""
    from hpc.trajectories.records import (
        ActionTaken,
        AlertRaised,
        ContextRewritten,
        GuidanceApplied,
        Observed,
        SnapshotTaken,
    )

    if isinstance(record, GuidanceApplied):
        return record.applied_step
    if isinstance(record, ContextRewritten):
        return record.after_step
    return record.step if isinstance(record, ActionTaken | Observed | AlertRaised | SnapshotTaken) else None


def _matches(record: Record, search: re.Pattern[str]) -> bool:
    return any(search.search(text) for text in _texts(record))


def _texts(record: Record) -> Iterator[str]:
    from hpc.trajectories import records as kinds

    match record:
        case kinds.ActionTaken():
            yield record.action.name
            yield json.dumps(record.action.arguments, ensure_ascii=False)
            yield from _strings(record.action.arguments)  # as they are, not as JSON escapes them
            yield record.text
            yield record.action.problem
        case kinds.Observed():
            yield record.observation.text
            if record.observation.evaluation is not None:
                yield record.observation.evaluation.message
        case kinds.AlertRaised():
            yield record.detector
            yield record.reason
        case kinds.GuidanceApplied():
            yield record.annotator
            yield record.text
        case kinds.ContextRewritten():
            yield record.text
        case _:
            return


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


# ---- showing them -----------------------------------------------------------------------------


def _story(printer: Printer, trajectory: Trajectory, chosen: set[int] | None) -> Iterator[None]:
    """Print the trajectory; yields after each record, so that a pager may stop it."""
    from hpc.trajectories.labels import labels_path, read_labels, steps_of
    from hpc.trajectories.records import ActionTaken

    labels = steps_of(read_labels(labels_path(trajectory.path)).current())
    printer.heading(trajectory)
    yield
    shown = 0
    for record in trajectory.records() if chosen is None else _records_of(trajectory, chosen):
        number = _step_of(record)
        if chosen is not None and number is not None:
            if shown and number > shown + 1:
                printer.gap(shown + 1, number - 1)
            shown = max(shown, number)
        printer.record(record)
        if isinstance(record, ActionTaken):
            printer.labels(labels.get(record.step, []))
        yield


def _records_of(trajectory: Trajectory, chosen: set[int]) -> Iterator[Record]:
    """The chosen steps with their alerts and guidance, reading no other."""
    for number in sorted(chosen):
        step = trajectory.step(number)
        yield step.action
        if step.observed is not None:
            yield step.observed
        yield from (alert for alert in trajectory.alerts if alert.step == number)
        yield from (given for given in trajectory.guidance if given.applied_step == number)
        yield from (context for context in trajectory.contexts if context.after_step == number)
        yield from (snapshot for snapshot in trajectory.snapshots if snapshot.step == number)


def _pages(
    trajectory: Trajectory, chosen: set[int] | None, search: re.Pattern[str] | None, *, full: bool
) -> Iterator[str]:
    """What `_story` prints, piece by piece, with colours."""
    import io
    import shutil

    from rich.console import Console

    from hpc.cli.traj_text import Printer

    buffer = io.StringIO()
    width = shutil.get_terminal_size().columns
    console = Console(file=buffer, force_terminal=True, width=width, highlight=False)
    for _ in _story(Printer(console, full=full, search=search), trajectory, chosen):
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _follow(
    place: tuple[RunDir, int], span: Span, search: re.Pattern[str] | None, *, full: bool, as_json: bool
) -> None:
    import msgspec
    from rich.console import Console

    from hpc.cli.traj_text import Printer
    from hpc.trajectories.reader import follow

    printer = Printer(Console(highlight=False), full=full, search=search)
    for record in _wanted(follow(*place), span, search):
        if as_json:
            click.echo(json.dumps(msgspec.to_builtins(record), ensure_ascii=False))
        else:
            printer.record(record)


def _wanted(records: Iterable[Record], span: Span, search: re.Pattern[str] | None) -> Iterator[Record]:
    for record in records:
        number = _step_of(record)
        if span != EVERYTHING and (number is None or not _inside(number, span)):
            continue
        if search is None or _matches(record, search):
            yield record


def _as_json(trajectory: Trajectory, chosen: set[int] | None) -> dict[str, Any]:
    import msgspec

    value = trajectory.summary()
    if chosen is not None:
        steps = [trajectory.step(number) for number in sorted(chosen)]
        value["step_records"] = [
            {
                "step": step.action.step,
                "action": msgspec.to_builtins(step.action),
                "observed": msgspec.to_builtins(step.observed),
            }
            for step in steps
        ]
    return value


def _write_page(found: Path | tuple[RunDir, int], out: Path | None) -> Path:
    from hpc.core import files
    from hpc.evaluation.page import render_page
    from hpc.trajectories.reader import Trajectory

    with Trajectory.open(found) as trajectory:
        if out is None and isinstance(found, tuple):
            out = found[0].trajectory_page(found[1])
        target = out if out is not None else Path(f"{trajectory.path.stem}.html")
        files.write_text(target, render_page(trajectory, labels=_labels(trajectory.path)))
    return target


def _labels(path: Path) -> list[Label]:
    """What the page shows of the labels that count."""
    from hpc.evaluation.rows import Label
    from hpc.trajectories.labels import labels_path, read_labels

    tones: dict[str, Literal["good", "bad", "neutral"]] = {"optimal": "good", "suboptimal": "bad"}
    return [
        Label(
            step=label.step,
            verdict=label.verdict.replace("suboptimal", "sub-optimal"),
            reason=label.reason,
            by=f"{label.rule} v{label.rule_version}" if label.author_kind == "rule" else label.author,
            tone=tones.get(label.verdict, "neutral"),
        )
        for label in read_labels(labels_path(path)).current()
    ]
