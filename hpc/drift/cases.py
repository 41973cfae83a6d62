"""Trajectories with what people said of them: what a replay measures detectors on.

Our own trajectories are labelled by a file; the annotated failures of Who&When (Zhang et al., "Which
Agent Causes Task Failures and When?", arXiv 2505.00212) carry their label.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from hpc.core.errors import TrajectoryLayoutError, UsageError
from hpc.drift.history import THINK
from hpc.trajectories.exchange.source import parse_json, read_bytes
from hpc.trajectories.records import StepView

LABEL_HINT = 'write {"episode": …, "step": …} a line (JSONL), or the columns episode,step (CSV); no step: no mistake'

_TERMINALS = ("Computer_terminal", "ComputerTerminal")
_HUMAN = "human"
_SPEAKER = re.compile(r"^(?P<name>[^(]*?)\s*(?:\((?P<how>.*)\))?$")
_EXIT = re.compile(r"^exitcode: (-?\d+)")
_NO_CODE = ("There is no code from the last", "No code block detected")


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One trajectory to replay.

    ``mistakes`` are the steps that people marked; empty: someone looked and found none; None: nobody
    looked. ``task`` is what the agent was to do: cases of one task are never split. The budget is what
    the episode might use, steps and seconds of working time.
    """

    name: str
    task: str
    views: tuple[StepView, ...]
    mistakes: tuple[int, ...] | None = None
    max_steps: int
    max_working_seconds: float


class Label(msgspec.Struct, frozen=True):
    """A person's word on an episode: the step of a mistake, or None for "no mistake"."""

    episode: str
    step: int | None


# ---- labels of our own trajectories ------------------------------------------------------------


def read_labels(path: Path) -> list[Label]:
    """The labels of a JSONL or CSV file.

    Raises:
        UsageError: absent, empty, or a line that is no label; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the labels {path}: {error}", LABEL_HINT) from error
    rows = _json_rows(path, text) if text.lstrip().startswith("{") else _csv_rows(path, text)
    labels = [_label(path, line, row) for line, row in rows]
    if not labels:
        raise UsageError(f"{path} holds no label", LABEL_HINT)
    return labels


def _json_rows(path: Path, text: str) -> Iterable[tuple[int, Any]]:
    for line, row in enumerate(text.splitlines(), start=1):
        if row.strip():
            try:
                yield line, msgspec.json.decode(row)
            except msgspec.DecodeError as error:
                raise UsageError(f"{path}:{line} is not JSON: {error}", LABEL_HINT) from error


def _csv_rows(path: Path, text: str) -> Iterable[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text))
    if not {"episode", "step"} <= set(reader.fieldnames or ()):
        raise UsageError(f"{path} has no columns episode and step", LABEL_HINT)
    for row in reader:
        step = (row["step"] or "").strip()
        yield reader.line_num, {"episode": row["episode"], "step": int(step) if step.isdecimal() else step or None}


def _label(path: Path, line: int, row: Any) -> Label:
    try:
        label = msgspec.convert(row, Label)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}:{line} is no label: {error}", LABEL_HINT) from error
    if label.step is not None and label.step < 1:
        raise UsageError(f"{path}:{line} is no label: step is {label.step}, the first step is 1", LABEL_HINT)
    return label


def labelled(cases: Sequence[Case], labels: Sequence[Label]) -> tuple[list[Case], list[str]]:
    """The cases with their labels, and the episodes of labels that belong to no case.

    Raises:
        UsageError: a label names a step that its episode has not.
    """
    steps: dict[str, list[int]] = {}
    for label in labels:
        marked = steps.setdefault(label.episode, [])
        if label.step is not None and label.step not in marked:
            marked.append(label.step)
    done = []
    for case in cases:
        if case.name not in steps:
            done.append(case)
            continue
        marked = sorted(steps.pop(case.name))
        if marked and marked[-1] > len(case.views):
            raise UsageError(
                f"a label names step {marked[-1]} of {case.name}, which has {len(case.views)} steps", "mend the labels"
            )
        done.append(replace(case, mistakes=tuple(marked)))
    return done, sorted(steps)


# ---- Who&When ----------------------------------------------------------------------------------


class _Message(msgspec.Struct):
    content: str
    role: str
    name: str | None = None


class _Failure(msgspec.Struct):
    question: str
    history: list[_Message]
    mistake_step: int | str


def read_failure(path: Path, *, max_steps: int, max_working_seconds: float) -> Case:
    """An annotated failure of Who&When.

    A message is a step: its speaker is the action, its text the argument. What a terminal says is the
    observation of the step before it; a human's message is no step; an orchestrator's thought is one
    like any other (`think`). A code block that fails is an error, a message in which the terminal finds
    nothing to run is malformed. ``mistake_step`` counts messages from 0 and becomes the number of
    their step. There are no times and no measure of progress.

    Raises:
        TrajectoryLayoutError: not such a file, or its label names no step.
        TrajectoryIncomplete: absent, empty or truncated.
    """
    value = parse_json(read_bytes(path), path)
    try:
        failure = msgspec.convert(value, _Failure)
        mistake = int(failure.mistake_step)
    except (msgspec.ValidationError, ValueError) as error:
        raise TrajectoryLayoutError(f"{path} is no annotated failure: {error}", "name a file of Who&When") from error
    views: list[StepView] = []
    step_of: dict[int, int] = {}
    for number, message in enumerate(failure.history):
        match = _SPEAKER.match(message.name or message.role)
        speaker, how = (match["name"], match["how"]) if match else (message.role, None)
        if speaker == _HUMAN:
            continue
        if speaker in _TERMINALS and views:
            views[-1] = _answered(views[-1], message.content)
        else:
            arguments = msgspec.json.encode({"content": message.content}).decode()
            action = THINK if how == "thought" else speaker or message.role
            views.append(StepView(step=len(views) + 1, action=action, arguments=arguments, observation=""))
        step_of[number] = len(views)
    if mistake not in step_of:
        raise TrajectoryLayoutError(
            f"{path}: mistake_step {mistake} is no agent's message of {len(failure.history)}", "mend the label"
        )
    return Case(
        name=path.name,
        task=failure.question,
        views=tuple(views),
        mistakes=(step_of[mistake],),
        max_steps=max_steps,
        max_working_seconds=max_working_seconds,
    )


def _answered(view: StepView, said: str) -> StepView:
    """The step with what the terminal answered to it."""
    code = _EXIT.match(said)
    return replace(
        view,
        observation="\n".join(filter(None, [view.observation, said])),
        is_error=view.is_error or (code is not None and int(code[1]) != 0),
        is_malformed=view.is_malformed or said.startswith(_NO_CODE),
    )
