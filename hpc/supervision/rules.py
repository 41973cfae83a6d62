"""The rules: each says which actions of an episode do not deserve to be learned, and why. Pure.

A rule never says that an action is good. Sources: the criteria by which the action judge of the
InnovatorBench evaluation reports calls actions ineffective (same lab as Apollo, arXiv 2510.27630, and LIMI,
arXiv 2509.17567), made mechanical; limits are that judge's where it has any. A rule whose outcome changes
for any episode gets a higher version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from hpc.supervision.history import (
    CLOSES,
    COMMANDS,
    EDITS,
    EVALUATIONS,
    LOOKS,
    OPENS,
    READS,
    Past,
    arguments_of,
    is_shown,
    likeness,
    path_of,
)
from hpc.trajectories.records import StepView

RETRIES = 3
POLLS = 10
READ_WITHIN = 20
ROLLBACK_WITHIN = 5
SPAN_LIMIT = 50
"""Longest span before a correction that is put down to it."""
_SHOWN = 60
_REPLACEMENTS = (("old_text", "new_text"), ("old_str", "new_str"), ("search", "replace"), ("old", "new"))


class Found(NamedTuple):
    """A sub-optimal action, and why it is one."""

    step: int
    reason: str


class Rule(NamedTuple):
    """A rule by name. ``criterion`` is one sentence, ``source`` where it comes from."""

    name: str
    version: int
    criterion: str
    source: str
    find: Callable[[Past], Iterator[Found]]


def blind_retry(past: Past) -> Iterator[Found]:
    """From the third time on that the same action failed in the same way (times and addresses aside), with no edit
    and no other command that worked between."""
    failed: dict[tuple[str, str, str], int] = {}
    for step in past.steps:
        if step.is_malformed:
            continue
        if not step.is_error:
            if step.action in EDITS | COMMANDS:  # something was changed: trying again is no blind retry
                failed.clear()
            continue
        key = (step.action, step.arguments, likeness(step.observation))
        failed[key] = failed.get(key, 0) + 1
        if failed[key] >= RETRIES:
            yield Found(step.step, f"failed for the {failed[key]}. time in the same way: {_short(step.observation)}")


def monitoring_deadlock(past: Past) -> Iterator[Found]:
    """From the tenth look in a row at work that does not move, thoughts aside."""
    row: list[StepView] = []
    for step in past.steps:
        if step.action == "think":
            continue
        if not (step.polling or step.action in LOOKS) or step.job_progressed:
            row = []
            continue
        row.append(step)
        if len(row) >= POLLS:
            yield Found(step.step, f"{len(row)} looks in a row at work that does not move")


def evaluation_abuse(past: Past) -> Iterator[Found]:
    """An evaluation with nothing done since the last one: no edit or command that worked."""
    last: StepView | None = None
    for step in past.steps:
        if step.action in EVALUATIONS:
            if last is not None:
                yield Found(step.step, f"evaluated again with no edit and no command since step {last.step}")
            last = step
        elif step.action in EDITS | COMMANDS and not step.is_error:
            last = None


def edit_without_read(past: Past) -> Iterator[Found]:
    """An edit of a file that was neither read, nor printed by a command, nor written in the 20 steps before; making
    one is none."""
    touched: dict[str, int] = {}
    commands: list[StepView] = []
    for step in past.steps:
        if step.action in COMMANDS:
            commands.append(step)
        path = path_of(step)
        if not path:
            continue
        if step.action in EDITS and not step.action.startswith("create") and not step.is_error:
            shown = next((one.step for one in reversed(commands) if is_shown(one, path)), None)
            before = max((place for place in (touched.get(path), shown) if place is not None), default=None)
            if before is None or step.step - before > READ_WITHIN:
                since = "never read" if before is None else f"last looked at in step {before}"
                yield Found(step.step, f"edited {path}, {since}")
        if step.action in EDITS | READS:
            touched[path] = step.step


def rollback(past: Past) -> Iterator[Found]:
    """An edit that a later edit of the same place undoes within five steps; both count."""
    reported: set[int] = set()
    written: dict[tuple[str, str], list[tuple[int, str]]] = {}
    last_of: dict[str, StepView] = {}
    for step in past.steps:
        path = path_of(step)
        if step.action not in EDITS or not path or step.is_error:
            continue
        undone: int | None = None
        before = last_of.get(path)
        if before is not None and _undoes(before, step):
            undone = before.step
        where, text = _written(step, path)
        earlier = written.setdefault(where, [])
        if len(earlier) >= 2 and earlier[-2][1] == text != earlier[-1][1]:
            undone = earlier[-1][0]
        earlier.append((step.step, text))
        last_of[path] = step
        if undone is None or step.step - undone > ROLLBACK_WITHIN:
            continue
        for number, reason in ((undone, f"undone in step {step.step}"), (step.step, f"undoes step {undone}")):
            if number not in reported:
                reported.add(number)
                yield Found(number, f"{reason}: {path}")


def fruitless_edit(past: Past) -> Iterator[Found]:
    """An edit that was replaced by another in the same place after a command was run, with no progress between."""
    last: dict[tuple[str, str], tuple[int, str]] = {}
    tried: set[tuple[str, str]] = set()
    best = 0.0
    for step in past.steps:
        if step.progress is not None and step.progress > best:
            best = step.progress
            last.clear()
        if step.action in COMMANDS | EVALUATIONS:
            tried |= last.keys()
        path = path_of(step)
        if step.action not in EDITS or not path or step.is_error:
            continue
        where, text = _written(step, path)
        before = last.get(where)
        if before is not None and where in tried and before[1] != text:
            yield Found(before[0], f"replaced in step {step.step} without any progress in between: {path}")
        last[where] = (step.step, text)
        tried.discard(where)


def _written(step: StepView, path: str) -> tuple[tuple[str, str], str]:
    """The place that an edit writes to (a file, and lines or a text in it), and what it writes there."""
    arguments = arguments_of(step)
    if "start" in arguments or "end" in arguments:
        return (path, f"{arguments.get('start')}:{arguments.get('end')}"), str(arguments.get("content", ""))
    for old, new in _REPLACEMENTS:
        if old in arguments and new in arguments:
            return (path, f"={arguments[old]}"), str(arguments[new])
    return (path, ""), str(arguments.get("content", arguments.get("file_text", "")))


def _undoes(first: StepView, second: StepView) -> bool:
    """Whether the second edit puts back the text that the first replaced."""
    one, other = arguments_of(first), arguments_of(second)
    return any(
        one.get(old) is not None and one.get(old) == other.get(new) != one.get(new) == other.get(old)
        for old, new in _REPLACEMENTS
    )


def session_leak(past: Past) -> Iterator[Found]:
    """A session that was opened, never used and never closed, in an episode that opened others after it."""
    opened: dict[str, int] = {}
    order: list[str] = []
    for step in past.steps:
        name = str(arguments_of(step).get("session_id", ""))
        if step.action in OPENS and not step.is_error:
            opened[name] = step.step
            order.append(name)
        elif step.action in CLOSES:
            opened = {} if step.action == "close_all_sessions" else {k: v for k, v in opened.items() if k != name}
        elif name:
            opened.pop(name, None)  # it was used
    for name, number in opened.items():
        if order and order[-1] != name:
            yield Found(number, f"opened the session {name!r} and never used nor closed it")


def no_action(past: Past) -> Iterator[Found]:
    """An answer in which no valid action was found."""
    for step in past.steps:
        if step.is_malformed:
            yield Found(step.step, f"no action: {_short(step.observation)}")


def corrected(past: Past) -> Iterator[Found]:
    """The steps that a person corrected: those the alert shows as evidence, or the one it was raised at, and
    every further failed one until the guidance was applied. Guidance of kind knowledge corrects nothing: the
    agent could not know."""
    alerts = {alert.id: alert for alert in past.alerts}
    by_number = {step.step: step for step in past.steps}
    for guidance in past.guidance:
        alert = alerts.get(guidance.alert_id or "")
        if alert is None or guidance.kind == "knowledge" or guidance.kind == "control":
            continue
        shown = set(alert.evidence) or {alert.step}
        first = max(min(shown), guidance.applied_step - SPAN_LIMIT)
        between = range(first, guidance.applied_step + 1)
        wrong = {number for number in between if number in by_number and by_number[number].is_error}
        for number in sorted((shown | wrong) & set(between)):
            yield Found(number, f"corrected by {guidance.annotator} before step {guidance.applied_step + 1}: "
                        f"{_short(guidance.text)}")  # fmt: skip


def abandoned_branch(past: Past) -> Iterator[Found]:
    """A step on a branch that was left: the episode went on from an earlier one."""
    for step in past.steps:
        if step.step in past.abandoned:
            yield Found(step.step, "on a branch that was left later")


def failed_action(past: Past) -> Iterator[Found]:
    """An action that the environment refused or that failed. Off unless the policy asks for it: trying and
    failing can be the right thing to do."""
    for step in past.steps:
        if step.is_error and not step.is_malformed:
            yield Found(step.step, f"failed: {_short(step.observation)}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


_JUDGE = "action judge of the InnovatorBench evaluation reports"
_OWN = "what the environment answers"
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("blind_retry", 1, "the same action failed the same way 3 times, no edit between", _JUDGE, blind_retry),
        Rule("monitoring_deadlock", 1, "10 looks in a row at work that does not move", _JUDGE, monitoring_deadlock),
        Rule("evaluation_abuse", 1, "two evaluations with no edit or command between", _JUDGE, evaluation_abuse),
        Rule("edit_without_read", 1, "an edit of a file not looked at for 20 steps", _JUDGE, edit_without_read),
        Rule("rollback", 1, "an edit undone by the file's next edit within 5 steps", _JUDGE, rollback),
        Rule(
            "fruitless_edit", 1, "an edit replaced after a command, no progress between", "environment", fruitless_edit
        ),
        Rule("session_leak", 1, "a session opened, never used, never closed", _JUDGE, session_leak),
        Rule("no_action", 1, "an answer without a valid action", "ResearchGym's null action", no_action),
        Rule("corrected", 1, "what a person corrected", "Apollo, arXiv 2510.27630", corrected),
        Rule("abandoned_branch", 1, "a step on a branch that was left", "ResearchGym's snapshots", abandoned_branch),
        Rule("failed_action", 1, "an action that failed", _OWN, failed_action),
    )
}
"""All rules, in the order of reports."""
