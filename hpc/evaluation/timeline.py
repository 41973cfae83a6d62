"""An episode as a picture: steps coloured by what they did, scores, alerts, guidance, attempts.

Pure: records in, inline SVG out. Colours are classes, so that the page decides them (light, dark).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

import msgspec

from hpc.trajectories.records import (
    ActionTaken,
    AlertRaised,
    AttemptStarted,
    GuidanceApplied,
    Observed,
    Record,
)

KINDS = {
    "think": "think",
    "sleep": "wait",
    "get_session_output": "wait",
    "run_command": "run",
    "create_session": "run",
    "open_file": "read",
    "list_files": "read",
    "edit_file": "write",
    "eval": "evaluate",
    "finish": "evaluate",
    # of imported trajectories
    "create": "write",
    "edit": "write",
    "find_file": "read",
    "goto": "read",
    "open": "read",
    "search_dir": "read",
    "search_file": "read",
    "scroll_down": "read",
    "scroll_up": "read",
    "submit": "evaluate",
}
"""Kind of each action; any other is "run"."""
LEGEND = ("run", "read", "write", "think", "wait", "evaluate", "malformed", "error")
"""What a step can be drawn as. An error outweighs its kind."""

WIDTH, HEIGHT = 1000, 168
LEFT, RIGHT = 34, 12
_TOP, _FLOOR = 22, 82  # of the score plot
_BAND, _BAND_HEIGHT = 98, 24
_GUIDANCE_Y, _AXIS_Y = 136, 160
_TICK_WIDTH = 80
_COLUMN_WIDTH = 3  # narrower steps are drawn together


class StepMark(msgspec.Struct, frozen=True, kw_only=True):
    """One step: its number, what it is drawn as, the task's progress in [0, 1] and the evaluator's
    score in [0, 100] where it has them."""

    step: int
    kind: str
    progress: float | None = None
    score: float | None = None


class Mark(msgspec.Struct, frozen=True):
    """Something after ``step``, with a text that appears under the pointer."""

    step: int
    text: str


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """All that the picture shows, in order of steps. Step numbers begin at 1."""

    steps: list[StepMark] = []
    alerts: list[Mark] = []
    guidance: list[Mark] = []
    attempts: list[Mark] = []


def timeline_of(records: Iterable[Record]) -> Timeline:
    """What to draw of a trajectory."""
    steps: list[StepMark] = []
    alerts: list[Mark] = []
    guidance: list[Mark] = []
    attempts: list[Mark] = []
    taken: ActionTaken | None = None
    for record in records:
        match record:
            case ActionTaken():
                taken = record
                steps.append(StepMark(step=record.step, kind=step_kind(record, None)))
            case Observed() if taken is not None and steps:
                observation = record.observation
                evaluation = observation.evaluation
                steps[-1] = StepMark(
                    step=record.step,
                    kind=step_kind(taken, record),
                    progress=observation.progress,
                    score=None if evaluation is None else evaluation.score,
                )
            case AlertRaised():
                alerts.append(Mark(record.step, f"step {record.step}: {record.detector}: {record.reason}"))
            case GuidanceApplied():
                text = f"after step {record.applied_step}, {record.annotator}: {record.text}"
                guidance.append(Mark(record.applied_step, text))
            case AttemptStarted() if record.epoch > 1:
                text = f"attempt {record.epoch} on {record.host}, resumed after step {record.resumed_at_step}"
                attempts.append(Mark(record.resumed_at_step, text))
    return Timeline(steps=steps, alerts=alerts, guidance=guidance, attempts=attempts)


def step_kind(taken: ActionTaken, observed: Observed | None) -> str:
    """What a step is drawn as, one of `LEGEND`."""
    if taken.action.problem or taken.action.name == "null":
        return "malformed"
    if observed is not None and observed.observation.is_error:
        return "error"
    return KINDS.get(taken.action.name, "run")


class Axis(NamedTuple):
    """Where steps are in a picture ``width`` units wide; step k is drawn from ``x(k - 1)`` to ``x(k)``."""

    steps: int
    width: int

    def x(self, step: float) -> float:
        """Where ``step`` ends."""
        return round(LEFT + (self.width - LEFT - RIGHT) * step / max(self.steps, 1), 2)


def draw(timeline: Timeline, *, width: int = WIDTH) -> str:
    """The picture as an SVG element, ``width`` by `HEIGHT` units. Every text in it is escaped."""
    axis = Axis(max([mark.step for mark in timeline.steps], default=0), width)
    parts = [
        f'<svg class="timeline" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(describe(timeline))}">',
        *_frame(axis),
        *_attempts(timeline.attempts, axis),
        *_scores(timeline.steps, axis),
        *_band(timeline.steps, axis),
        *_alerts(timeline.alerts, axis),
        *_guidance(timeline.guidance, axis),
        "</svg>",
    ]
    return "\n".join(parts)


def describe(timeline: Timeline) -> str:
    """The picture in a sentence, for those who cannot see it."""
    errors = sum(step.kind == "error" for step in timeline.steps)
    scores = [step.score for step in timeline.steps if step.score is not None]
    best = f", best score {max(scores):.1f}" if scores else ""
    return (
        f"{len(timeline.steps)} steps, {errors} errors, {len(timeline.alerts)} alerts, "
        f"{len(timeline.guidance)} times guided, {len(timeline.attempts) + 1} attempts{best}"
    )


def ticks(count: int, most: int = 12) -> list[int]:
    """Step numbers to write below the picture: 1, then round ones, at most ``most`` of them."""
    if count < 1:
        return []
    stride = next(base * 10**power for power in range(10) for base in (1, 2, 5) if count / (base * 10**power) <= most)
    return sorted({1, *range(stride, count + 1, stride)} - ({2} if stride > 2 else set()))


def _y(score: float) -> float:
    return round(_FLOOR - (_FLOOR - _TOP) * min(max(score, 0.0), 100.0) / 100, 2)


def _frame(axis: Axis) -> list[str]:
    right = axis.width - RIGHT
    parts = [f'<line class="grid" x1="{LEFT}" y1="{_y(v)}" x2="{right}" y2="{_y(v)}"/>' for v in (0, 50, 100)]
    parts += [f'<text class="axis" x="{LEFT - 6}" y="{_y(v) + 4}" text-anchor="end">{v}</text>' for v in (0, 100)]
    parts.append(f'<rect class="empty" x="{LEFT}" y="{_BAND}" width="{right - LEFT}" height="{_BAND_HEIGHT}" rx="3"/>')
    for step in ticks(axis.steps, max(3, axis.width // _TICK_WIDTH)):
        parts.append(f'<text class="axis" x="{axis.x(step - 0.5)}" y="{_AXIS_Y}" text-anchor="middle">{step}</text>')
    return parts


def _attempts(marks: Sequence[Mark], axis: Axis) -> list[str]:
    parts = []
    for mark in marks:
        x = axis.x(mark.step)
        line = f'<line class="attempt" x1="{x}" y1="12" x2="{x}" y2="{_BAND + _BAND_HEIGHT + 6}"/>'
        flag = f'<circle class="attempt" cx="{x}" cy="9" r="4"/>'
        parts.append(f"<g>{line}{flag}{_title(mark.text)}</g>")
    return parts


def _scores(steps: Sequence[StepMark], axis: Axis) -> list[str]:
    progress = [(axis.x(s.step - 0.5), _y(100 * s.progress)) for s in steps if s.progress is not None]
    scores = [(s, axis.x(s.step - 0.5), _y(s.score)) for s in steps if s.score is not None]
    parts = []
    if progress:
        progress = [*progress[:: max(1, len(progress) // axis.width)], progress[-1]]
        parts.append(f'<polyline class="progress" points="{" ".join(f"{x},{y}" for x, y in progress)}"/>')
    if scores:
        parts.append(f'<polyline class="score" points="{" ".join(f"{x},{y}" for _, x, y in scores)}"/>')
    for mark, x, y in scores:
        title = _title(f"step {mark.step}: score {mark.score:.1f}")
        parts.append(f'<g><circle class="score" cx="{x}" cy="{y}" r="4"/>{title}</g>')
    return parts


def _band(steps: Sequence[StepMark], axis: Axis) -> list[str]:
    parts = []
    groups = [(kind, list(group)) for kind, group in groupby(steps, key=lambda mark: mark.kind)]
    if len(groups) * _COLUMN_WIDTH > axis.width:
        return _dense_band(steps, axis)
    for kind, run in groups:
        first, last = run[0].step, run[-1].step
        x, width = axis.x(first - 1), axis.x(last) - axis.x(first - 1)
        title = _title(f"step {first}: {kind}" if first == last else f"steps {first} to {last}: {kind}")
        parts.append(
            f'<rect class="step {kind}" x="{x}" y="{_BAND}" width="{width:.2f}" height="{_BAND_HEIGHT}">{title}</rect>'
        )
    return parts


def _dense_band(steps: Sequence[StepMark], axis: Axis) -> list[str]:
    """The band in columns of several steps each, which show what share of them was of which kind."""
    size = -(-len(steps) * _COLUMN_WIDTH // (axis.width - LEFT - RIGHT))
    paths: dict[str, list[str]] = {kind: [] for kind in LEGEND}
    for start in range(0, len(steps), size):
        column = steps[start : start + size]
        x, width = axis.x(column[0].step - 1), axis.x(column[-1].step) - axis.x(column[0].step - 1)
        floor = float(_BAND + _BAND_HEIGHT)
        for kind in LEGEND:
            height = _BAND_HEIGHT * sum(mark.kind == kind for mark in column) / len(column)
            if height:
                floor -= height
                paths[kind].append(f"M{x:g} {floor:.1f}h{width:.2f}v{height:.1f}h-{width:.2f}z")
    return [f'<path class="dense {kind}" d="{"".join(path)}"/>' for kind, path in paths.items() if path]


def _alerts(marks: Sequence[Mark], axis: Axis) -> list[str]:
    y = _BAND - 2
    parts = []
    for mark in marks:
        x = axis.x(mark.step - 0.5)
        points = f"{x - 6:.2f},{y - 11} {x + 6:.2f},{y - 11} {x},{y}"
        parts.append(f'<polygon class="alert" points="{points}">{_title(mark.text)}</polygon>')
    return parts


def _guidance(marks: Sequence[Mark], axis: Axis) -> list[str]:
    parts = []
    for mark in marks:
        x = axis.x(mark.step)
        line = f'<line class="guidance" x1="{x}" y1="{_BAND}" x2="{x}" y2="{_GUIDANCE_Y}"/>'
        dot = f'<circle class="guidance" cx="{x}" cy="{_GUIDANCE_Y}" r="6"/>'
        parts.append(f"<g>{line}{dot}{_title(mark.text)}</g>")
    return parts


def _title(text: str) -> str:
    shown = " ".join(text.split())
    return f"<title>{escape(shown if len(shown) <= 300 else shown[:299] + '…')}</title>"
