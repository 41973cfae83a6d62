"""The report of a run: one self-contained page that needs no network and no scripts."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpc.core import files
from hpc.core.errors import TrajectoryError
from hpc.core.locate import data_dir
from hpc.evaluation.timeline import LEGEND, draw, timeline_of
from hpc.evaluation.words import clock, duration, score
from hpc.rundir import RunDir
from hpc.trajectories.reader import Trajectory, stored_episodes
from hpc.trajectories.records import (
    ActionTaken,
    AlertRaised,
    EpisodeHeader,
    GuidanceApplied,
    Observed,
    OutcomeReached,
    Record,
)

EXCERPT = 600
"""Characters of a step's texts shown below an alert."""
EVIDENCE_STEPS = 4


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A step that an alert points to, cut short."""

    step: int
    action: str
    observation: str
    is_error: bool


class Help(msgspec.Struct, frozen=True, kw_only=True):
    """One text of an annotator. The waits are seconds: ``replied_after`` from the alert to the reply,
    ``delivered_after`` and ``applied_after`` from the reply on."""

    id: str
    annotator: str
    kind: str
    text: str
    sent_at: float
    replied_after: float | None
    delivered_after: float
    applied_after: float
    applied_step: int


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """An alert and what came of it."""

    alert: AlertRaised
    evidence: list[Evidence]
    answers: list[Help]


class EpisodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One episode as the page shows it. ``page`` is the file beside it that shows every step, if there
    is one; ``problem`` says why there is nothing more."""

    index: int
    status: str
    episode_id: str = ""
    task: str = ""
    steps: int = 0
    attempts: int = 0
    final_score: float | None = None
    best_score: float | None = None
    working_seconds: float | None = None
    reason: str = ""
    calls: list[Call] = []
    unasked: list[Help] = []
    timeline: str = ""
    page: str = ""
    problem: str = ""

    @property
    def guidance(self) -> list[Help]:
        """All guidance, asked for or not."""
        return [*(answer for call in self.calls for answer in call.answers), *self.unasked]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A table that the caller has made; the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def write_report(run: RunDir, sections: Sequence[Section] = ()) -> Path:
    """Write ``report/index.html`` of a run, in whatever state it is; its path.

    Args:
        sections: further tables, below that of the episodes.

    Raises:
        HpcError: the page cannot be written.
    """
    wanted = range(int(run.read_manifest().get("episodes", 0)))
    views = [_load(run, index) for index in sorted({*wanted, *stored_episodes(run)})]
    files.write_text(
        run.report,
        render(run.name, run.read_manifest(), run.read_config(), views, sections=sections, written_at=time.time()),
    )
    return run.report


def _load(run: RunDir, index: int) -> EpisodeView:
    if not run.trajectory(index).exists() and not run.log(index).exists():
        return EpisodeView(index=index, status="waiting", problem="not started")
    try:
        with Trajectory.open((run, index)) as trajectory:
            view = episode_view(list(trajectory.records()))
    except TrajectoryError as error:
        return EpisodeView(index=index, status="damaged", problem=str(error))
    page = run.trajectory_page(index)
    return msgspec.structs.replace(view, page=page.name) if page.exists() else view


def episode_view(records: Sequence[Record]) -> EpisodeView:
    """What the page shows of an episode. Pure.

    Args:
        records: a whole trajectory or its beginning; the header comes first.
    """
    header = next(record for record in records if isinstance(record, EpisodeHeader))
    outcome = next((record for record in records if isinstance(record, OutcomeReached)), None)
    timeline = timeline_of(records)
    steps = _steps(records)
    sent = {record.id: record.sent_at for record in records if isinstance(record, AlertRaised)}
    helps = [(record.alert_id, _help(record, sent)) for record in records if isinstance(record, GuidanceApplied)]
    calls = [
        Call(
            alert=record,
            evidence=[steps[n] for n in sorted({*record.evidence, record.step}) if n in steps][-EVIDENCE_STEPS:],
            answers=[given for alert, given in helps if alert == record.id],
        )
        for record in records
        if isinstance(record, AlertRaised)
    ]
    scores = [mark.score for mark in timeline.steps if mark.score is not None]
    return EpisodeView(
        index=header.index,
        status=outcome.status if outcome else "running",
        episode_id=header.episode_id,
        task=header.task_id,
        steps=len(timeline.steps),
        attempts=len(timeline.attempts) + 1,
        final_score=outcome.final_score if outcome else None,
        best_score=outcome.best_score if outcome else max(scores, default=None),
        working_seconds=outcome.working_seconds if outcome else None,
        reason=outcome.reason if outcome else "",
        calls=calls,
        unasked=[given for alert, given in helps if alert not in sent],
        timeline=draw(timeline),
    )


def totals(views: Sequence[EpisodeView]) -> list[tuple[str, str]]:
    """The figures at the top of the page: name and value. Pure."""
    states = Counter(view.status for view in views)
    finals = [view.final_score for view in views if view.final_score is not None]
    given = [answer for view in views for answer in view.guidance]
    calls = [call for view in views for call in view.calls]
    replies = [answer.replied_after for answer in given if answer.replied_after is not None]
    working = [view.working_seconds for view in views if view.working_seconds is not None]
    return [
        ("episodes", f"{len(views)}"),
        *((status, str(count)) for status, count in sorted(states.items())),
        ("steps", f"{sum(view.steps for view in views)}"),
        ("mean final score", f"{statistics.fmean(finals):.1f}" if finals else "–"),
        ("alerts", f"{len(calls)}"),
        ("alerts answered", f"{sum(bool(call.answers) for call in calls)}"),
        ("guidance applied", f"{len(given)}"),
        ("median reply", duration(statistics.median(replies)) if replies else "–"),
        ("working time", duration(sum(working)) if working else "–"),
        ("requeues", f"{sum(max(0, view.attempts - 1) for view in views)}"),
    ]


def render(
    name: str,
    manifest: dict[str, Any],
    config: dict[str, Any],
    views: Sequence[EpisodeView],
    *,
    sections: Sequence[Section] = (),
    written_at: float,
) -> str:
    """The page. Everything that comes from outside is escaped. Pure but for reading the template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(data_dir("templates") / "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "score": score, "clock": clock}
    return environment.get_template("index.html.j2").render(
        name=name,
        facts=_facts(manifest, config),
        totals=totals(views),
        legend=LEGEND,
        views=views,
        sections=sections,
        pictures={view.index: Markup(view.timeline) for view in views},  # made by us, escaped there
        written_at=written_at,
    )


def _facts(manifest: dict[str, Any], config: dict[str, Any]) -> list[tuple[str, str]]:
    """When, where and with what the run was launched; what is not recorded is left out."""

    def of(group: str, field: str) -> str:
        value = config.get(group)
        return str(value.get(field) or "") if isinstance(value, dict) else ""

    git = manifest.get("git") or {}
    code = (
        f"{manifest.get('apollo_hpc', '')} {str(git.get('commit', ''))[:12]}{' (changed)' if git.get('dirty') else ''}"
    )
    facts = [
        ("launched", clock(float(manifest["created_at"])) if "created_at" in manifest else ""),
        ("by", "@".join(filter(None, (str(manifest.get("user", "")), str(manifest.get("host", "")))))),
        ("model", of("model", "name")),
        ("server", " ".join(filter(None, (of("server", "name"), of("server", "kind"))))),
        ("task", " ".join(filter(None, (of("task", "family"), of("task", "split"))))),
        ("agent", of("agent", "prompt")),
        ("annotators", of("annotators", "kind")),
        ("code", code.strip()),
        ("command", str(manifest.get("command", ""))),
    ]
    return [(name, value) for name, value in facts if value]


def _steps(records: Sequence[Record]) -> dict[int, Evidence]:
    found: dict[int, Evidence] = {}
    for record in records:
        if isinstance(record, ActionTaken):
            action = f"{record.action.name} {json.dumps(record.action.arguments, ensure_ascii=False)}"
            found[record.step] = Evidence(step=record.step, action=action[:EXCERPT], observation="", is_error=False)
        elif isinstance(record, Observed) and record.step in found:
            text = record.observation.text
            found[record.step] = msgspec.structs.replace(
                found[record.step],
                observation=text if len(text) <= EXCERPT else "…" + text[-EXCERPT:],
                is_error=record.observation.is_error,
            )
    return found


def _help(record: GuidanceApplied, alerts: dict[str, float]) -> Help:
    asked_at = alerts.get(record.alert_id or "")
    return Help(
        id=record.id,
        annotator=record.annotator,
        kind=record.kind,
        text=record.text,
        sent_at=record.sent_at,
        replied_after=None if asked_at is None else record.sent_at - asked_at,
        delivered_after=record.delivered_at - record.sent_at,
        applied_after=record.applied_at - record.sent_at,
        applied_step=record.applied_step,
    )
