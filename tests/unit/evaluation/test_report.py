from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace

from hpc.evaluation.report import Section, episode_view, render, totals, write_report
from hpc.evaluation.words import duration
from hpc.rundir import RunDir
from hpc.trajectories.records import (
    AlertRaised,
    EpisodeHeader,
    GuidanceApplied,
    Observation,
    Observed,
    OutcomeReached,
    Record,
)
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import episode, guidance, run_dir

HOSTILE = "<script>alert(1)</script><img src=x onerror=1> {{ 7*7 }} \"'&"
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Tags, text and links of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("href", "src", "action", "data", "srcset", "xlink:href"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def page(records: list[Record], **config: object) -> Page:
    return Page(render("demo", {}, dict(config), [episode_view(records)], written_at=0.0))


def hostile(record: Record) -> Record:
    """The record with markup in every text that comes from a model, an environment or a person."""
    match record:
        case EpisodeHeader():
            return replace(record, task_id=HOSTILE)
        case Observed():
            return replace(record, observation=Observation(text=HOSTILE))
        case AlertRaised():
            return replace(record, reason=HOSTILE, detector=HOSTILE)
        case GuidanceApplied():
            return replace(record, text=HOSTILE, annotator=HOSTILE, kind=HOSTILE)
        case OutcomeReached():
            return replace(record, reason=HOSTILE)
    return record


def test_the_page_needs_nothing_from_outside() -> None:
    found = page(episode(12))
    assert all(link.startswith("#") for link in found.links)
    assert not {"script", "link", "img", "iframe"} & set(found.tags)


def test_links_lead_somewhere() -> None:
    found = page(episode(12))
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)


def test_everything_from_outside_is_escaped() -> None:
    found = page([hostile(record) for record in episode(12)], model={"name": HOSTILE})
    assert not {"script", "img"} & set(found.tags)
    assert HOSTILE in " ".join(found.words)
    assert "{{ 7*7 }}" in found.text


def test_alerts_tell_who_answered_and_when() -> None:
    text = page(episode(12)).text
    assert "step 6: the same command, three times" in text
    assert "answered by ada" in text
    assert "replied 1.0 s after the alert" in text
    assert "delivered 0.5 s, applied 4.0 s after the reply, after step 6" in text
    assert "for cobalt set anneal to 450C" in text


def test_alerts_without_an_answer_say_so() -> None:
    records = [record for record in episode(12) if not isinstance(record, GuidanceApplied)]
    assert page(records).text.count("no answer applied") == 2


def test_guidance_that_nobody_asked_for_is_shown() -> None:
    records = episode(5)
    unasked = replace(guidance(9, 5), alert_id=None)
    view = episode_view([*records[:-1], unasked, records[-1]])
    assert [given.id for given in view.unasked] == ["gu-9"]
    assert view.unasked[0].replied_after is None
    assert "guidance without an alert" in page([*records[:-1], unasked, records[-1]]).text


def test_totals_count_the_run() -> None:
    views = [episode_view(episode(12)), episode_view(episode(7, index=1, finished=False))]
    assert dict(totals(views)) == {
        "episodes": "2",
        "finished": "1",
        "running": "1",
        "steps": "19",
        "mean final score": "40.0",
        "alerts": "3",
        "alerts answered": "3",
        "guidance applied": "3",
        "median reply": "1.0 s",
        "working time": "1 min 54 s",
        "requeues": "2",
    }
    assert dict(totals([]))["mean final score"] == "–"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"),
        (-0.2, "0.0 s"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (61, "1 min 01 s"),
        (3600, "1 h 00 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_durations_read_well(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def make_run(root: Path) -> RunDir:
    run = run_dir(root)
    for index, (steps, finished) in enumerate([(13, True), (7, False), (5, True)]):
        with TrajectoryWriter.open(run, index) as writer:
            writer.append(*episode(steps, index=index, finished=finished))
            if finished:
                writer.seal()
    path = run.trajectory(2)
    path.write_bytes(path.read_bytes()[:-100])
    return run


def test_a_run_in_any_state_has_a_report(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = write_report(run)
    assert path == run.report
    found = Page(path.read_text())
    for index, status in enumerate(("finished", "running", "damaged", "waiting")):
        assert f"episode-{index}" in found.ids
        assert status in found.text
    assert found.tags.count("svg") == 2
    assert "is damaged" in found.text


def test_tables_of_others_are_on_the_page_and_harmless() -> None:
    section = Section(title="By annotator", columns=["annotator", "replies"], rows=[["<script>ada", "3"], ["bob", "–"]])
    found = Page(render("demo", {}, {}, [], sections=[section], written_at=0.0))
    assert "By annotator" in found.text
    assert "<script>ada" in found.text
    assert "script" not in found.tags
    assert found.tags.count("td") == 4


def test_the_report_links_to_the_pages_beside_it(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.trajectory_page(1).parent.mkdir()
    run.trajectory_page(1).write_text("a page")
    links = Page(write_report(run).read_text()).links
    assert [link for link in links if not link.startswith("#")] == ["00001.html"]


def test_a_run_without_episodes_has_a_report(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "empty", manifest={}, config={}, config_hash="0")
    assert "no episodes yet" in Page(write_report(run).read_text()).text


def test_the_head_says_what_was_run() -> None:
    manifest = {
        "created_at": 0.0,
        "user": "ada",
        "host": "login1",
        "command": "hpc episodes submit",
        "apollo_hpc": "1.0",
    }
    config = {"model": {"name": "tiny"}, "server": {"name": "main", "kind": "vllm"}, "annotators": {"kind": "slack"}}
    text = Page(render("demo", manifest, config, [], written_at=0.0)).text
    for part in ("1970-01-01 00:00:00 UTC", "ada@login1", "tiny", "main vllm", "slack", "hpc episodes submit"):
        assert part in text
