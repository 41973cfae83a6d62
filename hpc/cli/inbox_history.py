"""What an episode did, as an annotator reads it beside an alert: from its trajectory, router or not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hpc.rundir import RunDir
    from hpc.trajectories.reader import Step, Trajectory

OBSERVATION_LINES = 8
LINE_CHARACTERS = 200
ENDLESS = 2**62


def span_of(text: str) -> tuple[int, int]:
    """First and last step of ``A:B``, ``A:``, ``:B`` or ``A``; both included.

    Raises:
        UsageError: it is none of these.
    """
    from hpc.core.errors import UsageError

    match = re.fullmatch(r"(\d*)(:?)(\d*)", text.strip())
    if not match or not (match[1] or match[3]):
        raise UsageError(f"--steps {text} is not a range", "write 3:8, 3:, :8 or 3")
    first = max(1, int(match[1] or 1))
    return first, int(match[3]) if match[3] else ENDLESS if match[2] else first


def pattern_of(text: str) -> re.Pattern[str]:
    """A regular expression, case ignored.

    Raises:
        UsageError: it is none.
    """
    from hpc.core.errors import UsageError

    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise UsageError(
            f"--search {text} is not a regular expression: {error}", "quote it, escape ( [ * + ?"
        ) from error


def read_history(
    run: RunDir, index: int, *, last: int, span: tuple[int, int] | None, search: re.Pattern[str] | None
) -> list[dict[str, Any]]:
    """The wanted steps of an episode with the alerts and the guidance after each, in plain values.

    Args:
        last: how many steps to take where neither ``span`` nor ``search`` is given.
        search: only steps whose action, answer, observation, alerts or guidance match.

    Raises:
        TrajectoryError: there is no trajectory, or it is damaged.
    """
    from hpc.trajectories.reader import Trajectory

    with Trajectory.open((run, index)) as trajectory:
        count = len(trajectory.steps)
        first, until = span or ((1, count) if search is not None else (max(1, count - last + 1), count))
        steps = (trajectory.steps[row] for row in range(first - 1, min(until, count)))
        return [
            step for step in _plain(trajectory, steps) if search is None or any(search.search(t) for t in _texts(step))
        ]


def _plain(trajectory: Trajectory, steps: Iterable[Step]) -> Iterator[dict[str, Any]]:
    for step in steps:
        number, taken, observed = step.action.step, step.action, step.observed
        seen = observed.observation if observed is not None else None
        yield {
            "step": number,
            "at": taken.at,
            "action": taken.action.name,
            "arguments": taken.action.arguments,
            "problem": taken.action.problem,
            "text": taken.text,
            "observation": seen.text if seen is not None else None,
            "is_error": seen.is_error if seen is not None else False,
            "score": seen.evaluation.score if seen is not None and seen.evaluation is not None else None,
            "alerts": [
                {"alert": one.id, "detector": one.detector, "score": one.score, "reason": one.reason}
                for one in trajectory.alerts
                if one.step == number
            ],
            "guidance": [
                {"guidance": one.id, "annotator": one.annotator, "kind": one.kind, "text": one.text}
                for one in trajectory.guidance
                if one.applied_step == number
            ],
        }


def _texts(step: dict[str, Any]) -> Iterator[str]:
    """Everything of a step that can be searched."""
    yield _action(step)
    yield step["text"]
    yield step["observation"] or ""
    for alert in step["alerts"]:
        yield alert["reason"]
    for given in step["guidance"]:
        yield given["text"]


def _action(step: dict[str, Any]) -> str:
    return f"{step['action']} {json.dumps(step['arguments'], ensure_ascii=False)}"


def print_history(steps: list[dict[str, Any]], *, search: re.Pattern[str] | None, full: bool) -> None:
    """Print steps for people. With ``search`` only the lines that match, below each step's action."""
    from rich.console import Console
    from rich.text import Text

    from hpc.router.annotators.console import plain

    console = Console(soft_wrap=True, highlight=False)

    def line(text: str, style: str = "", indent: int = 10) -> None:
        shown = Text(" " * indent + plain(text).replace("\n", " "), style=style)
        if search is not None:
            shown.highlight_regex(search, "reverse")
        console.print(shown)

    for step in steps:
        line(f"step {step['step']:<5}{_shorten(_action(step), full)}", "bold", 0)
        if step["problem"]:
            line(f"malformed: {step['problem']}", "yellow")
        for text in _lines(step["text"], search, full):
            line(text, "dim")
        for text in _lines(step["observation"] or "", search, full):
            line(f"| {text}", "red" if step["is_error"] else "")
        if step["score"] is not None:
            line(f"score {step['score']:.1f}", "green")
        for alert in step["alerts"]:
            line(f"▲ {alert['alert']} {alert['detector']} {alert['score']:.2f}: {alert['reason']}", "yellow")
        for given in step["guidance"]:
            line(f"● {given['annotator']} ({given['kind']}): {given['text']}", "magenta")
    if not steps:
        click.echo("no such step" if search is None else f"nothing matches {search.pattern}", err=True)


def _lines(text: str, search: re.Pattern[str] | None, full: bool) -> list[str]:
    lines = text.splitlines()
    if search is not None and not full:
        return [_around(line, search) for line in lines if search.search(line)]
    if len(lines) > OBSERVATION_LINES and not full:
        head = OBSERVATION_LINES // 2
        lines = [*lines[:head], f"… {len(lines) - OBSERVATION_LINES} lines …", *lines[head - OBSERVATION_LINES :]]
    return [_shorten(line, full) for line in lines]


def _around(line: str, search: re.Pattern[str]) -> str:
    """The part of a long line in which the match is."""
    match = search.search(line)
    if match is None or len(line) <= LINE_CHARACTERS:
        return _shorten(line, False)
    start = max(0, match.start() - LINE_CHARACTERS // 2)
    return ("…" if start else "") + _shorten(line[start:], False)


def _shorten(text: str, full: bool) -> str:
    return text if full or len(text) <= LINE_CHARACTERS else text[: LINE_CHARACTERS - 1] + "…"
