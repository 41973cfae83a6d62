"""Our trajectories there and back: what is lost is exactly what the format's table says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpc.rundir import RunDir
from hpc.trajectories.exchange.formats import LOSSES, READABLE, WRITABLE
from hpc.trajectories.records import ActionTaken, EpisodeHeader, GuidanceApplied, Observed, OutcomeReached
from tests.unit.trajectories import samples
from tests.unit.trajectories.exchange.support import back, changed, odd_episode, store, stored, there


def _said(record: ActionTaken | Observed | GuidanceApplied) -> tuple[str, str]:
    kind = type(record).__name__
    return (kind, record.observation.text) if isinstance(record, Observed) else (kind, record.text)


DOCS = Path(__file__).resolve().parents[4] / "docs" / "exchange.md"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = samples.run_dir(tmp_path / "runs")
    store(made, 0, samples.episode(12))
    store(made, 1, odd_episode(1))
    return made


@pytest.mark.parametrize("name", WRITABLE)
def test_what_comes_back_differs_only_where_the_table_says(name: str, run: RunDir, tmp_path: Path) -> None:
    exported = there(run, name, tmp_path)
    came, imported = back(name, tmp_path)
    assert (exported.written, imported.imported, imported.failed) == (2, 2, [])
    differences: set[str] = set()
    for before, after in zip(stored(run), stored(came), strict=True):
        differences |= changed(before, after)
    assert differences == {field for loss in LOSSES[name] for field in loss.fields}
    assert set(exported.lost) == {loss.what for loss in LOSSES[name]}  # and all of it was said
    for records in stored(came):
        header = records[0]
        assert isinstance(header, EpisodeHeader)
        assert header.origin is not None
        assert (header.run, header.origin.format, len(header.origin.sha256)) == ("back", name, 64)
        assert header.origin.extra["stored"]["run"] == "demo"


@pytest.mark.parametrize("name", WRITABLE)
def test_the_second_time_nothing_more_is_lost(name: str, run: RunDir, tmp_path: Path) -> None:
    there(run, name, tmp_path / "1")
    first, _ = back(name, tmp_path / "1")
    there(first, name, tmp_path / "2")
    second, done = back(name, tmp_path / "2")
    assert done.failed == []
    for before, after in zip(stored(first), stored(second), strict=True):
        assert changed(before, after) == set()


@pytest.mark.parametrize("name", WRITABLE)
def test_bare_files_are_read_as_anybodys(name: str, run: RunDir, tmp_path: Path) -> None:
    exported = there(run, name, tmp_path, bare=True)
    assert any("--bare" in what for what in exported.lost)
    came, imported = back(name, tmp_path)
    assert (imported.imported, imported.failed) == (2, [])
    before, after = stored(run)[0], stored(came)[0]
    kept = (ActionTaken, Observed, GuidanceApplied)
    old = [record for record in before if isinstance(record, kept)]
    new = [record for record in after if isinstance(record, kept)]
    assert [_said(record) for record in new] == [_said(record) for record in old]


@pytest.mark.parametrize("name", WRITABLE)
def test_an_episode_that_has_not_ended_is_left_out_unless_asked_for(name: str, tmp_path: Path) -> None:
    run = samples.run_dir(tmp_path / "runs")
    store(run, 0, samples.episode(4, finished=False), seal=False)
    assert there(run, name, tmp_path).unfinished == 1
    assert not (tmp_path / "chats.jsonl").exists()
    assert there(run, name, tmp_path, unfinished=True).written == 1
    came, imported = back(name, tmp_path)
    assert imported.failed == []
    outcome = stored(came)[0][-1]
    assert isinstance(outcome, OutcomeReached)
    assert (outcome.status, outcome.reason) == ("truncated", "exported before it had ended")


def test_the_page_lists_every_loss() -> None:
    page = DOCS.read_text()
    for name in WRITABLE:
        (section,) = re.findall(rf"^### {name}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
        listed = set(re.findall(r"^- lost: (.*)$", section, re.MULTILINE))
        assert listed == ({loss.what for loss in LOSSES[name]} or {"nothing"}), name
        for loss in LOSSES[name]:
            for field in loss.fields:
                assert f"`{field}`" in section, (name, field)


def test_the_command_offers_every_format() -> None:
    from hpc.cli import traj_exchange

    assert traj_exchange.WRITABLE == WRITABLE
    assert sorted(traj_exchange.READABLE) == sorted(READABLE)
