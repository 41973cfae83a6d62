"""The page of one trajectory: whole, self-contained, and safe whatever an agent wrote."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hpc.evaluation.page import BLOCK_BYTES, blocks, longest_allowed, render_page
from hpc.evaluation.rows import Label, Texts, gist, last_line, rows_of
from hpc.trajectories import sealed
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import ActionTaken, AttemptStarted, EpisodeHeader, Observed, Record
from tests.unit.evaluation.test_report import HOSTILE, hostile
from tests.unit.evaluation.test_report import Page as MarkupPage
from tests.unit.trajectories.samples import episode

BREAKOUT = f"</script></style></title>--><!--<![CDATA[ ]]> {HOSTILE}"


class Page(MarkupPage):
    """Also keeps the scripts and what the page carries."""

    def __init__(self, text: str) -> None:
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.policy = ""
        super().__init__(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag == "meta" and dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if self._open and self._open[-1] == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))

    def rows(self) -> list[dict[str, Any]]:
        return next(unpack(text) for attributes, text in self.scripts if attributes.get("id") == "rows")  # type: ignore[return-value]

    def texts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for attributes, text in self.scripts:
            if attributes.get("class") == "block":
                assert int(attributes["data-first"] or 0) == len(found)
                found += unpack(text)
        return found


def unpack(text: str) -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = json.loads(gzip.decompress(base64.b64decode(text)))
    return value


def page_of(tmp_path: Path, records: list[Record], **options: Any) -> Page:
    path = tmp_path / "t.h5"
    path.write_bytes(sealed.build(records))
    with Trajectory.open(path) as trajectory:
        return Page(render_page(trajectory, **options))


def all_hostile(record: Record) -> Record:
    """`hostile`, and also where only this page shows it."""
    record = hostile(record)
    match record:
        case EpisodeHeader():
            return replace(record, episode_id=BREAKOUT, messages=[{"role": BREAKOUT, "content": BREAKOUT}])
        case AttemptStarted():
            return replace(record, host=BREAKOUT, job_id=BREAKOUT)
        case ActionTaken():
            action = replace(record.action, name=BREAKOUT, arguments={BREAKOUT: BREAKOUT}, problem=BREAKOUT)
            return replace(record, action=action, text=BREAKOUT, model=BREAKOUT)
        case Observed():
            return replace(record, observation=replace(record.observation, text=BREAKOUT))
    return record


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = page_of(tmp_path, episode(12))
    assert all(link.startswith("#") for link in page.links)
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    assert page.policy.startswith("default-src 'none'; ")


def test_only_our_script_may_run(tmp_path: Path) -> None:
    page = page_of(tmp_path, episode(12))
    running = [text for attributes, text in page.scripts if attributes.get("type") != "text/plain"]
    (script,) = running
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.search(r"script-src ([^;]+);", page.policy)[1] == f"'sha256-{digest}'"  # type: ignore[index]
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script and "eval(" not in script


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    calm = page_of(tmp_path, episode(12))
    page = page_of(tmp_path, [all_hostile(record) for record in episode(12)])
    assert not {"img", "b"} & set(page.tags)
    assert page.tags.count("script") == calm.tags.count("script")
    assert [attributes for attributes, _ in page.scripts] == [attributes for attributes, _ in calm.scripts]
    assert page.texts()[0] == {"answer": BREAKOUT, "arguments": {BREAKOUT: BREAKOUT}, "observation": BREAKOUT, "cut": 0}
    assert BREAKOUT in " ".join(page.words)


def test_everything_that_was_written_is_on_the_page(tmp_path: Path) -> None:
    records = episode(40, size=4000)
    page = page_of(tmp_path, records)
    rows, texts = page.rows(), page.texts()
    steps = [row for row in rows if row["type"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, 41))
    observations = [record.observation.text for record in records if isinstance(record, Observed)]
    assert [text["observation"] for text in texts] == observations
    kinds = [row["type"] for row in rows]
    assert (kinds.count("alert"), kinds.count("guidance"), kinds.count("attempt"), kinds[-1]) == (6, 6, 2, "outcome")
    assert kinds.index("guidance") == kinds.index("alert") + 1
    assert rows[kinds.index("guidance")]["waits"] == [1.0, 0.5, 4.0]
    assert [row["evaluated"] for row in steps if "evaluated" in row] == [10.0 * n for n in range(5, 41, 5)]
    assert page.tags.count("svg") == 2


def test_the_head_says_how_it_ended(tmp_path: Path) -> None:
    text = page_of(tmp_path, episode(12)).text
    for part in ("minilab/0", "finished", "the agent finished", "40.0", "53.3", "node1, node2", "Mach Gold ✨", "tiny"):
        assert part in text
    assert "are cut" not in text


def test_guidance_is_there_without_scripts(tmp_path: Path) -> None:
    page = page_of(tmp_path, episode(12))
    assert page.text.count("for cobalt set anneal to 450C") == 2 + 2 * 2  # in the list, and in both pictures
    assert "#step-6" in page.links


def test_long_observations_are_cut_and_said_to_be(tmp_path: Path) -> None:
    records = [
        replace(record, observation=replace(record.observation, text=f"begin{'x' * 50_000}end"))
        if isinstance(record, Observed) and record.step == 3
        else record
        for record in episode(12)
    ]
    page = page_of(tmp_path, records, text_bytes=20_000)
    text = page.texts()[2]
    assert text["observation"].startswith("begin") and text["observation"].endswith("end")
    assert text["cut"] > 30_000
    assert sum(len(text["observation"]) - 3 for text in page.texts()) <= 20_000
    assert [text["cut"] for text in page.texts()].count(0) == 11
    assert "1 long observations are cut to" in page.text and "--full --steps N" in page.text


def test_labels_are_on_their_steps(tmp_path: Path) -> None:
    labels = [
        Label(step=3, verdict="train", by="ada", tone="good"),
        Label(step=5, verdict="context-only", reason=BREAKOUT, by="rules 2", tone="bad"),
        Label(step=5, verdict="train", tone="good"),
    ]
    rows = page_of(tmp_path, episode(12), labels=labels).rows()
    found = {row["step"]: [label["verdict"] for label in row["labels"]] for row in rows if "labels" in row}
    assert found == {3: ["train"], 5: ["context-only", "train"]}
    assert all("labels" not in row for row in page_of(tmp_path, episode(12)).rows())


def test_an_episode_that_runs_has_a_page(tmp_path: Path) -> None:
    from hpc.trajectories.writer import TrajectoryWriter
    from tests.unit.trajectories.samples import run_dir

    run = run_dir(tmp_path)
    with TrajectoryWriter.open(run, 0) as writer:
        writer.append(*episode(7, finished=False)[:-1])
        with Trajectory.open((run, 0)) as trajectory:
            page = Page(render_page(trajectory))
    assert "running" in page.text and "no outcome yet" in page.text
    assert "clock" not in page.rows()[-1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), max_size=30), st.integers(0, 2000))
def test_the_limit_is_the_highest_that_fits(lengths: list[int], total: int) -> None:
    limit = longest_allowed(lengths, total)
    if limit is None:
        assert sum(lengths) <= total
    else:
        assert sum(min(length, limit) for length in lengths) <= total
        assert sum(min(length, limit + 1) for length in lengths) > total


@settings(deadline=None)
@given(st.lists(st.integers(0, 3 * BLOCK_BYTES // 2), max_size=12))
def test_blocks_follow_each_other_and_leave_nothing_out(sizes: list[int]) -> None:
    spans = blocks([Texts(answer="x" * size, arguments={}) for size in sizes])
    assert [position for first, stop in spans for position in range(first, stop)] == list(range(len(sizes)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("one\ntwo\n", "two"),
        ("result 7\n[exit 0]", "result 7"),
        ("[exit 1]", "[exit 1]"),
        ("done\n(Current directory: /x)\nbash-$", "done"),
        ("$", "$"),
        ("x" * 900, "x" * 200),
    ],
)
def test_the_last_line_that_says_something(text: str, expected: str) -> None:
    assert last_line(text) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"seconds": 600}, "seconds=600"),
        ({"session": "main", "command": "\n ls -l\npwd"}, "ls -l"),
        ({"path": "a.py", "start": 3}, "a.py"),
        ({"a": "x", "b": [1]}, 'a="x" b=[1]'),
        ({}, "Schritt 1: " + "δ" * 40),
    ],
)
def test_an_action_in_a_line(arguments: dict[str, Any], expected: str) -> None:
    taken = next(record for record in episode(1) if isinstance(record, ActionTaken))
    assert gist(replace(taken, action=replace(taken.action, arguments=arguments))) == expected


def test_a_step_that_was_not_observed_has_a_row() -> None:
    rows, texts = rows_of(episode(3, finished=False)[:-1])
    assert (rows[-1].step, rows[-1].clock, texts[-1].observation) == (3, None, "")
