"""The figures about annotators, by hand on small runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.core.errors import HpcError
from hpc.router.annals import Annalist, annals_path, read_annals
from hpc.router.stats import ENGAGED_SECONDS, AlertFact, Annals, ReplyFact, percentile, summarize
from hpc.router.stats_tables import tables
from hpc.rundir import RunDir


def alert(number: int, sent_at: float, state: str = "open", **fields: Any) -> AlertFact:
    values: dict[str, Any] = {
        "episode": "r-00000", "detector": "loop", "priority": "drift", "step": number, "score": 0.5, **fields
    }  # fmt: skip
    return AlertFact(alert=f"a{number}", sent_at=sent_at, state=state, **values)


def reply(number: int, to: int | None, sent_at: float, state: str = "applied", **fields: Any) -> ReplyFact:
    values: dict[str, Any] = {
        "episode": "r-00000", "annotator": "ada", "kind": "strategy",
        "applied_at": sent_at + 10 if state == "applied" else None, **fields,
    }  # fmt: skip
    return ReplyFact(
        guidance=f"g{number}", alert=None if to is None else f"a{to}", sent_at=sent_at, state=state, **values
    )


def annals(alerts: list[AlertFact], replies: list[ReplyFact], hours: float = 2.0) -> Annals:
    return Annals(run="r", since=0.0, until=3600 * hours, alerts=alerts, replies=replies)


RUN = annals(
    [
        alert(1, 100, "answered"),
        alert(2, 200, "false_alarm", closed_by="bob", closed_at=230),
        alert(3, 300, "expired", held="budget"),
        alert(4, 310, "merged", merged_into="a1"),
        alert(5, 400, "answered", detector="errors"),
        alert(6, 500, "milestone", priority="milestone", detector="milestone"),
    ],
    [
        reply(1, 1, 160),
        reply(2, 1, 170, "superseded"),
        reply(3, 5, 440, "expired", annotator="bob"),
        reply(4, None, 600, "too_late"),
        reply(5, None, 610, "applied", kind="control", annotator="eve"),
        reply(6, 5, 1000, "queued", annotator="bob"),
    ],
)


def test_the_figures_of_a_run() -> None:
    total = summarize(RUN).total
    assert (total.alerts, total.merged, total.held, total.expired) == (4, 1, 1, 1)
    assert total.alerts_per_hour == 2.0
    assert total.answered_share == 0.5
    assert total.false_alarm_share == pytest.approx(1 / 3)
    assert (total.replies, total.applied) == (5, 1)
    assert total.acceptance == pytest.approx(1 / 3), "applied 1, expired 1, too late 1; the others do not count"
    assert (total.reply_p50, total.reply_p95) == (50.0, 59.0), "60 s and 40 s, the first reply to each alone"
    assert (total.apply_p50, total.apply_p95) == (10.0, 10.0)
    assert total.alerts_per_applied == 4.0


def test_what_an_answer_costs() -> None:
    """ada: 60 s since the alert, 10 s since her last reply, at most 300 s unprompted; bob: 30 s, 40 s, 300 s."""
    summary = summarize(RUN)
    assert summary.annotators["ada"].annotator_seconds == 60 + 10 + ENGAGED_SECONDS
    assert summary.annotators["bob"].annotator_seconds == 30 + 40 + ENGAGED_SECONDS
    assert summary.total.annotator_seconds == 740
    assert summary.total.seconds_per_applied == 740


def test_the_figures_by_detector_and_by_annotator() -> None:
    summary = summarize(RUN)
    assert list(summary.detectors) == ["errors", "loop", "milestone"]
    loop = summary.detectors["loop"]
    assert (loop.alerts, loop.merged, loop.answered, loop.replies, loop.applied) == (3, 1, 1, 2, 1)
    assert loop.acceptance == 1.0
    assert summary.detectors["errors"].acceptance == 0.0
    assert list(summary.annotators) == ["ada", "bob"], "who only paused or resumed did not annotate"
    bob = summary.annotators["bob"]
    assert (bob.replies, bob.unprompted, bob.applied, bob.closed, bob.false_alarms) == (2, 0, 0, 1, 1)
    assert (bob.reply_p50, bob.apply_p50, bob.seconds_per_applied) == (40.0, None, None)
    assert summary.annotators["ada"].unprompted == 1


def test_a_run_without_anything_has_no_figures_but_counts() -> None:
    total = summarize(annals([], [], hours=0)).total
    assert (total.alerts, total.replies, total.annotator_seconds) == (0, 0, 0)
    assert {total.alerts_per_hour, total.answered_share, total.acceptance, total.reply_p50} == {None}


def test_clocks_that_disagree_make_no_negative_time() -> None:
    summary = summarize(annals([alert(1, 100, "answered")], [reply(1, 1, 90, applied_at=80.0)]))
    assert (summary.total.reply_p50, summary.total.apply_p50, summary.total.annotator_seconds) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("values", "percent", "found"),
    [([], 50, None), ([7.0], 95, 7.0), ([3.0, 1.0], 50, 2.0), ([1.0, 2.0, 3.0, 4.0, 5.0], 95, 4.8)],
)
def test_percentiles(values: list[float], percent: float, found: float | None) -> None:
    assert percentile(values, percent) == (None if found is None else pytest.approx(found))


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_is_within_the_values(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found is not None
    assert min(values) <= found <= max(values)


def test_tables_say_units_and_what_is_missing() -> None:
    total, detectors, annotators = tables(summarize(RUN), lambda seconds: f"{seconds:.0f} s")
    rows = dict(total.rows)  # type: ignore[arg-type]
    assert rows["answered"] == "50 %"
    assert rows["alerts an hour"] == "2.0"
    assert rows["reply, median"] == "50 s"
    assert [row[0] for row in detectors.rows] == ["errors", "loop", "milestone"]
    assert all(len(row) == len(annotators.columns) for row in annotators.rows)
    assert annotators.rows[1][-1] == "–"
    assert [table.title for table in tables(summarize(annals([], [])), str)] == ["Annotators"]


# ---- the file


def leave(run: RunDir, what: Annals) -> None:
    annalist = Annalist(run)
    annalist.learn_alerts(what.alerts, 7)
    annalist.learn_replies(what.replies, 6)
    annalist.write(what.run, since=what.since, until=what.until)


def test_the_file_keeps_what_the_journal_has_forgotten(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert read_annals(run) is None
    leave(run, RUN)
    assert read_annals(run) == RUN
    later = msgspec.structs.replace(RUN, until=9e3, alerts=[alert(6, 500, "open"), alert(7, 700)], replies=[])
    leave(run, later)
    found = read_annals(run)
    assert found is not None
    assert (found.until, len(found.replies)) == (9e3, len(RUN.replies))
    assert {one.alert: one.state for one in found.alerts}["a6"] == "open", "the newest word counts"
    assert {one.alert for one in found.alerts} == {f"a{number}" for number in range(1, 8)}


@pytest.mark.parametrize("content", ["{", json.dumps({"run": "r"})])
def test_a_damaged_file_is_said_so_and_begun_anew(tmp_path: Path, content: str) -> None:
    run = RunDir(tmp_path)
    annals_path(run).parent.mkdir(parents=True)
    annals_path(run).write_text(content)
    with pytest.raises(HpcError):
        read_annals(run)
    leave(run, RUN)
    assert read_annals(run) == RUN
