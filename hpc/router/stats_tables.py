"""The figures about annotators as tables for people. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from hpc.router.stats import AnnotatorFigures, Figures, Summary

Unit = Literal["count", "share", "seconds", "number"]

TOTALS: tuple[tuple[str, Unit, str], ...] = (
    ("alerts", "count", "alerts"),
    ("merged", "count", "merged into them"),
    ("held", "count", "held back"),
    ("alerts_per_hour", "number", "alerts an hour"),
    ("answered_share", "share", "answered"),
    ("false_alarm_share", "share", "false alarms, of those dealt with"),
    ("replies", "count", "replies"),
    ("applied", "count", "applied"),
    ("acceptance", "share", "acceptance"),
    ("reply_p50", "seconds", "reply, median"),
    ("reply_p95", "seconds", "reply, 95th percentile"),
    ("apply_p50", "seconds", "from reply to applied, median"),
    ("apply_p95", "seconds", "from reply to applied, 95th percentile"),
    ("annotator_seconds", "seconds", "annotators' time"),
    ("seconds_per_applied", "seconds", "annotators' time for each applied guidance"),
    ("alerts_per_applied", "number", "alerts for each applied guidance"),
)
"""Figures of a run: field, unit, words."""

DETECTOR_COLUMNS: tuple[tuple[str, Unit, str], ...] = (
    ("alerts", "count", "alerts"),
    ("merged", "count", "merged"),
    ("alerts_per_hour", "number", "an hour"),
    ("answered_share", "share", "answered"),
    ("false_alarm_share", "share", "false alarms"),
    ("replies", "count", "replies"),
    ("acceptance", "share", "acceptance"),
    ("reply_p50", "seconds", "reply p50"),
    ("reply_p95", "seconds", "reply p95"),
    ("apply_p50", "seconds", "apply p50"),
    ("seconds_per_applied", "seconds", "time/applied"),
)

ANNOTATOR_COLUMNS: tuple[tuple[str, Unit, str], ...] = (
    ("replies", "count", "replies"),
    ("unprompted", "count", "unprompted"),
    ("acceptance", "share", "acceptance"),
    ("closed", "count", "closed"),
    ("false_alarms", "count", "false alarms"),
    ("reply_p50", "seconds", "reply p50"),
    ("reply_p95", "seconds", "reply p95"),
    ("apply_p50", "seconds", "apply p50"),
    ("annotator_seconds", "seconds", "time"),
    ("seconds_per_applied", "seconds", "time/applied"),
)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table for people: every cell is ready to be shown."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def tables(summary: Summary, seconds: Callable[[float], str]) -> list[Table]:
    """The figures as people read them: of the run, by detector, by annotator.

    Args:
        seconds: how to write a number of seconds.
    """

    def cell(unit: Unit, value: float | None) -> str:
        if value is None:
            return "–"
        match unit:
            case "count":
                return str(round(value))
            case "share":
                return f"{100 * value:.0f} %"
            case "seconds":
                return seconds(value)
            case "number":
                return f"{value:.1f}"

    def row(columns: Sequence[tuple[str, Unit, str]], values: msgspec.Struct) -> list[str]:
        return [cell(unit, getattr(values, field)) for field, unit, _ in columns]

    found = [
        Table(
            title="Annotators",
            columns=["figure", "value"],
            rows=[[words, value] for (_, _, words), value in zip(TOTALS, row(TOTALS, summary.total), strict=True)],
        )
    ]
    groups: list[tuple[str, str, Sequence[tuple[str, Unit, str]], dict[str, Figures] | dict[str, AnnotatorFigures]]] = [
        ("By detector", "detector", DETECTOR_COLUMNS, summary.detectors),
        ("By annotator", "annotator", ANNOTATOR_COLUMNS, summary.annotators),
    ]
    for title, name, columns, rows in groups:
        if rows:
            found.append(
                Table(
                    title=title,
                    columns=[name, *(words for _, _, words in columns)],
                    rows=[[key, *row(columns, values)] for key, values in rows.items()],
                )
            )
    return found
