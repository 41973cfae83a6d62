"""What the page of a trajectory shows: short rows for all steps, and their texts apart. Pure."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from hpc.evaluation.timeline import step_kind
from hpc.trajectories.records import (
    ActionTaken,
    AlertRaised,
    AttemptStarted,
    ContextRewritten,
    GuidanceApplied,
    Observed,
    OutcomeReached,
    Record,
    SnapshotTaken,
)

GIST = 200
"""Characters of the line that stands for an action or an observation."""
_SAYS_NOTHING = re.compile(r"\[exit .*|\(.*\)|[\w.@:~/ ()-]{0,60}[$#>]|[`'\"=*-]+")
TELLING = ("command", "cmd", "path", "file", "query", "thought", "text", "code", "input", "url", "session")
"""Arguments that say most about an action, in this order."""


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict on the action of a step, as the page shows it: ``by`` names a person or a rule and its
    version, ``tone`` chooses the colour."""

    step: int
    verdict: str
    reason: str = ""
    by: str = ""
    tone: Literal["good", "bad", "neutral"] = "neutral"


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the page. ``type`` is step, alert, guidance, summary, snapshot, attempt or
    outcome.

    Of a step: ``gist`` stands for the action's arguments, ``result`` for the observation; ``clock`` is
    the working time in seconds, ``took`` the model's; ``tokens`` are (whole prompt, new in it, answer),
    ``again`` counts those attached again behind a summary; ``cost`` is in US dollars.
    """

    type: str
    step: int
    at: float = 0.0
    kind: str = ""
    name: str = ""
    gist: str = ""
    result: str = ""
    boundary: str = ""
    problem: str = ""
    polling: bool = False
    evaluated: float | None = None
    said: str = ""
    left: int | None = None
    clock: float | None = None
    took: float = 0.0
    tokens: tuple[int, int, int] = (0, 0, 0)
    cached: int | None = None
    cost: float | None = None
    again: int = 0
    labels: list[Label] = []
    # alerts, guidance, attempts, the outcome
    id: str = ""
    by: str = ""
    text: str = ""
    value: float | None = None
    evidence: list[int] = []
    answered: bool = False
    alert: int = 0
    waits: list[float | None] = []


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """The texts of one step. ``cut`` counts the characters left out of the middle of the observation."""

    answer: str
    arguments: dict[str, Any]
    observation: str = ""
    cut: int = 0

    @property
    def size(self) -> int:
        """About how many characters these are."""
        return len(self.answer) + len(self.observation) + len(str(self.arguments))

    def observation_cut_to(self, limit: int) -> Texts:
        """The same with at most ``limit`` characters of the observation: its beginning and its end."""
        text = self.observation
        if len(text) <= limit:
            return self
        head = limit // 2
        tail = text[len(text) - (limit - head) :] if limit > head else ""
        return replace(self, observation=text[:head] + "\n⋯\n" + tail, cut=len(text) - limit)


def rows_of(records: Iterable[Record], labels: Iterable[Label] = ()) -> tuple[list[Row], list[Texts]]:
    """All lines of the page in order, and the texts of step 1, 2, 3 …

    Args:
        records: a whole trajectory or its beginning.
        labels: verdicts on steps, in the order in which they are to be shown.
    """
    records = list(records)
    verdicts: dict[int, list[Label]] = defaultdict(list)
    for label in labels:
        verdicts[label.step].append(label)
    alerts = {record.id: record for record in records if isinstance(record, AlertRaised)}
    answered = {record.alert_id for record in records if isinstance(record, GuidanceApplied)}
    rows: list[Row] = []
    texts: list[Texts] = []
    taken: ActionTaken | None = None
    for record in records:
        match record:
            case ActionTaken():
                taken = record
                rows.append(_step(record, None))
                texts.append(Texts(answer=record.text, arguments=record.action.arguments))
            case Observed() if taken is not None:
                rows[-1] = _step(taken, record)
                texts[-1] = replace(texts[-1], observation=record.observation.text)
            case AlertRaised():
                rows.append(_alert(record, record.id in answered))
            case GuidanceApplied():
                rows.append(_guidance(record, alerts.get(record.alert_id or "")))
            case ContextRewritten():
                rows.append(_summary(record))
            case SnapshotTaken():
                rows.append(_snapshot(record))
            case AttemptStarted():
                where = record.host + (f", job {record.job_id}" if record.job_id else "")
                step, epoch = record.resumed_at_step, record.epoch
                rows.append(Row(type="attempt", step=step, at=record.at, name=str(epoch), text=where))
            case OutcomeReached():
                rows.append(_outcome(record))
    labelled = [replace(row, labels=verdicts[row.step]) if row.type == "step" else row for row in rows]
    return labelled, texts


def _step(taken: ActionTaken, observed: Observed | None) -> Row:
    observation = observed.observation if observed else None
    evaluation = observation.evaluation if observation else None
    is_error = observation is not None and observation.is_error
    new, answer = len(taken.new_prompt_ids), len(taken.token_ids)
    return Row(
        type="step",
        step=taken.step,
        at=taken.at,
        kind=step_kind(taken, observed),
        name=taken.action.name,
        gist=gist(taken),
        result=last_line(observation.text) if observation else "",
        boundary=((observation.boundary if observation else None) or "action") if is_error else "",
        problem=taken.action.problem,
        polling=observation.polling if observation else False,
        evaluated=evaluation.score if evaluation else None,
        said=evaluation.message if evaluation else "",
        left=evaluation.left if evaluation else None,
        clock=observed.working_seconds if observed else None,
        took=taken.model_seconds,
        tokens=(taken.shared_tokens + new, new, answer),
        cached=taken.usage.cached_tokens if taken.usage else None,
        cost=taken.usage.cost if taken.usage else None,
        again=sum(stop - start for start, stop in taken.duplicate_spans),
    )


def _alert(record: AlertRaised, answered: bool) -> Row:
    return Row(
        type="alert",
        step=record.step,
        at=record.sent_at,
        id=record.id,
        kind=record.priority,
        name=record.detector,
        text=record.reason,
        value=record.score,
        evidence=record.evidence,
        answered=answered,
    )


def _guidance(record: GuidanceApplied, alert: AlertRaised | None) -> Row:
    asked = None if alert is None else record.sent_at - alert.sent_at
    return Row(
        type="guidance",
        step=record.applied_step,
        at=record.sent_at,
        id=record.id,
        by=record.annotator,
        kind=record.kind,
        text=record.text,
        alert=alert.step if alert else 0,
        waits=[asked, record.delivered_at - record.sent_at, record.applied_at - record.sent_at],
    )


def _summary(record: ContextRewritten) -> Row:
    return Row(
        type="summary",
        step=record.after_step,
        at=record.at,
        name=str(record.number),
        by=record.written_by,
        text=record.text,
        left=record.last_step,
        took=record.model_seconds,
        cost=record.usage.cost if record.usage else None,
    )


def _snapshot(record: SnapshotTaken) -> Row:
    size = f"{record.files:,} files, {record.size:,} bytes, {record.stored:,} of them new"
    return Row(
        type="snapshot",
        step=record.step,
        at=record.at,
        id=record.id,
        text=record.problem or size,
        problem=record.problem,
    )


def _outcome(record: OutcomeReached) -> Row:
    return Row(
        type="outcome",
        step=record.steps,
        at=record.at,
        name=record.status,
        text=record.reason,
        value=record.final_score,
        boundary=record.boundary or "",
    )


def gist(taken: ActionTaken) -> str:
    """The arguments of an action in one line: the most telling one, otherwise all by name."""
    arguments = taken.action.arguments
    for name in TELLING:
        value = arguments.get(name)
        if isinstance(value, str) and value.strip():
            return first_line(value)
    if not arguments:
        return first_line(taken.action.problem or taken.text)
    said = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return first_line(" ".join(said))


def first_line(text: str) -> str:
    """The first line with something in it, cut to `GIST` characters."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:GIST]


def last_line(text: str) -> str:
    """The last line that says something, cut to `GIST` characters: no bare prompt, no exit status."""
    lines = [line.strip() for line in text[-4000:].splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not _SAYS_NOTHING.fullmatch(line)), "".join(lines[-1:]))[:GIST]
