"""Records of a trajectory as lines for a terminal: coloured, wrapped, long texts folded."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from hpc.trajectories.labels import Label
    from hpc.trajectories.reader import Trajectory
    from hpc.trajectories.records import Record

ANSWER_LINES, OBSERVATION_LINES, LINE_CHARACTERS = 4, 8, 400
FOUND_LINES = 24
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Printer:
    """Writes records to a console.

    Args:
        full: print texts whole instead of folding them.
        search: highlight what matches, and of long texts show the lines that do.
    """

    def __init__(self, console: Console, *, full: bool = False, search: re.Pattern[str] | None = None) -> None:
        self._console = console
        self._full = full
        self._search = search

    def labels(self, labels: Sequence[Label]) -> None:
        """What labellers say of the action just printed."""
        for label in labels:
            who = f"{label.rule} v{label.rule_version}" if label.author_kind == "rule" else label.author
            verdict = label.verdict.replace("suboptimal", "sub-optimal")
            style = {"optimal": "green", "suboptimal": "red"}.get(label.verdict, "dim")
            self._line(f"  ⚖ {verdict} ({who}): {label.reason}", style=style)

    def heading(self, trajectory: Trajectory) -> None:
        """Two lines that say what the trajectory is and how it ended."""
        summary = trajectory.summary()
        outcome = summary["outcome"] or {}
        self._line(
            f"{summary['episode_id']}  {summary['task']} ({summary['split']}, seed {summary['seed']})", style="bold"
        )
        parts = [
            str(summary["status"]),
            f"{summary['steps']} steps",
            f"score {number(outcome.get('final_score'))}",
            f"best {number(summary['best_score'])}",
            f"{len(summary['alerts'])} alerts",
            f"{len(summary['guidance'])} guidance",
            f"{summary['attempts']} attempts",
        ]
        usage = summary["usage"]
        if usage["cost"] is not None:
            parts.append(f"${usage['cost']:.2f}")
        if summary["contexts"]:
            parts.append(f"{len(summary['contexts'])} summaries")
        self._line(" · ".join(parts))
        if branch := summary["branched_from"]:
            left = f", which went on to step {branch['abandoned']}" if branch["abandoned"] > branch["step"] else ""
            self._line(
                f"branched off {branch['run']}/{branch['index']} after step {branch['step']}{left}", style="blue"
            )

    def record(self, record: Record) -> None:
        """One record."""
        from hpc.trajectories import records as kinds

        match record:
            case kinds.AttemptStarted():
                where = f" on {record.host}" + (f", job {record.job_id}" if record.job_id else "")
                self._line(f"── attempt {record.epoch}{where}, {_clock(record.at)}", style="blue")
            case kinds.ActionTaken():
                self._action(record)
            case kinds.Observed():
                self._observation(record)
            case kinds.AlertRaised():
                said = f"▲ {record.detector} {record.score:.2f} after step {record.step}: {record.reason}"
                self._line(said, style="bold yellow")
            case kinds.GuidanceApplied():
                took = f"{record.applied_at - record.sent_at:.1f} s after it was sent"
                said = f"● {record.annotator} ({record.kind}), applied after step {record.applied_step}, {took}"
                self._line(said, style="bold magenta")
                self._block(record.text, OBSERVATION_LINES, "┃ ", "magenta")
            case kinds.ContextRewritten():
                said = f"≡ summary {record.number} by {record.written_by} in place of steps 1 to {record.last_step}"
                self._line(said, style="bold cyan")
                self._block(record.text, OBSERVATION_LINES, "┃ ", "cyan")
            case kinds.SnapshotTaken():
                self._snapshot(record)
            case kinds.OutcomeReached():
                score = "" if record.final_score is None else f", score {record.final_score:.1f}"
                self._line("")
                self._line(f"── {record.status} after {record.steps} steps{score}: {record.reason}", style="bold")
            case _:
                pass

    def gap(self, first: int, last: int) -> None:
        """A line in place of the steps that were left out."""
        left_out = f"step {first}" if first == last else f"steps {first} to {last}"
        self._line(f"⋯ {left_out} left out", style="dim")

    def _snapshot(self, record: Any) -> None:
        if record.problem:
            self._line(f"   no snapshot of the workspace: {record.problem}", style="yellow")
        else:
            size = f"{record.files} files, {record.size:,} bytes"
            self._line(f"   snapshot {record.id[:12]} of the workspace: {size}", style="dim")

    def _action(self, record: Any) -> None:
        arguments = json.dumps(record.action.arguments, ensure_ascii=False)
        self._line("")
        shown = arguments if self._full else _shorten(arguments)
        self._line(f"{record.step}  {record.action.name}  {shown}", style="bold")
        self._block(record.text, ANSWER_LINES, "   ", "dim")
        if record.action.problem:
            self._line(f"   malformed: {record.action.problem}", style="yellow")

    def _observation(self, record: Any) -> None:
        observation = record.observation
        self._block(observation.text, OBSERVATION_LINES, "   ", "red" if observation.is_error else "")
        if observation.is_error:
            self._line(f"   error of the {observation.boundary or 'action'}", style="red")
        if observation.evaluation is not None:
            said = f"   evaluated: {observation.evaluation.score:.1f} {observation.evaluation.message}"
            self._line(said, style="bold green")

    def _block(self, text: str, limit: int, prefix: str, style: str) -> None:
        for line in fold(printable(text), limit, full=self._full, search=self._search):
            self._line(line, prefix=prefix, style=style)

    def _line(self, text: str, *, prefix: str = "", style: str = "") -> None:
        """One line of text; on a terminal wrapped below its own beginning."""
        from rich.text import Text

        said = Text(printable(text), style=style)
        if self._search is not None:
            said.highlight_regex(self._search, style="black on bright_yellow")
        if not self._console.is_terminal:
            self._console.print(Text(prefix, style=style) + said, soft_wrap=True)
            return
        pieces = said.wrap(self._console, max(20, self._console.width - len(prefix)))
        for piece in pieces or [said]:
            self._console.print(Text(prefix, style=style) + piece, soft_wrap=True)


def printable(text: str) -> str:
    """The text without what would command the terminal or turn the direction of writing."""
    return _CONTROL.sub("�", _ESCAPE.sub("", text.replace("\r\n", "\n")))


def fold(text: str, limit: int, *, full: bool, search: re.Pattern[str] | None = None) -> list[str]:
    """The lines to show of a text: all, or its beginning and end, and what matches ``search``."""
    lines = text.splitlines()
    if full or len(lines) <= limit:
        return lines if full else [_shorten(line, search) for line in lines]
    head = limit // 2
    kept = {*range(head), *range(len(lines) - (limit - head), len(lines))}
    if search is not None:
        kept |= set([row for row, line in enumerate(lines) if search.search(line)][:FOUND_LINES])
    shown: list[str] = []
    before = -1
    for row in sorted(kept):
        if row > before + 1:
            shown.append(f"… {row - before - 1} lines …")
        shown.append(_shorten(lines[row], search))
        before = row
    return shown


def number(value: Any) -> str:
    """A figure as it is shown, a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _shorten(line: str, search: re.Pattern[str] | None = None) -> str:
    if len(line) <= LINE_CHARACTERS:
        return line
    match = search.search(line) if search is not None else None
    if match is None or match.end() < LINE_CHARACTERS:
        return line[: LINE_CHARACTERS - 1] + "…"
    start = max(0, match.start() - LINE_CHARACTERS // 2)
    return "…" + line[start : start + LINE_CHARACTERS - 2] + "…"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
