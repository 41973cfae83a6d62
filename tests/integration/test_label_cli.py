"""``hpc label`` as a user types it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from hpc.cli import cli
from hpc.core import files
from hpc.router.annals import annals_path
from hpc.rundir import RunDir
from hpc.trajectories.labels import read_labels
from hpc.trajectories.records import BranchPoint, EpisodeHeader
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import alert, episode, run_dir

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A sealed episode with an alert, and a running one."""
    made = run_dir(tmp_path)
    for index, finished in enumerate((True, False)):
        with TrajectoryWriter.open(made, index) as writer:
            writer.append(*episode(12, index=index, finished=finished))
            if finished:
                writer.seal()
    return made


def hpc(run: RunDir, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, ["label", *arguments], env={"HPC_RUNS": str(run.root.parent)})
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout


def test_labelling_twice_adds_nothing_the_second_time(run: RunDir) -> None:
    first = json.loads(hpc(run, "run", "demo", "--json"))
    assert [row["trajectory"] for row in first] == ["demo/0", "demo/1"]
    assert all(row["passes"] == 11 for row in first)
    before = run.labels(0).read_bytes()
    second = json.loads(hpc(run, "run", "demo", "--json"))
    assert all(row["passes"] == row["labels"] == 0 for row in second)
    assert run.labels(0).read_bytes() == before
    again = json.loads(hpc(run, "run", "demo/0", "--again", "--json"))
    assert again[0]["passes"] == 11
    assert read_labels(run.labels(0)).current() == read_labels(run.labels(0)).current()


def test_a_dry_run_writes_nothing(run: RunDir) -> None:
    hpc(run, "run", "demo", "--dry-run")
    assert not run.labels(0).exists()


def test_what_a_person_says_decides(run: RunDir) -> None:
    hpc(run, "add", "demo/0", "3", "--verdict", "suboptimal", "--reason", "off the task", "--author", "ada")
    report = json.loads(hpc(run, "report", "demo", "--json"))
    assert report["dropped"] >= 1
    assert any(line["labeller"] == "human ada" and line["suboptimal"] == 1 for line in report["rules"])
    assert "human ada" in hpc(run, "report", "demo")
    assert "no finished step 99" in _error(run, "add", "demo/0", "99", "--verdict", "optimal", "--reason", "x")
    assert "whole run" in _error(run, "add", "demo", "1", "--verdict", "optimal", "--reason", "x")


def test_labels_are_shown_with_the_trajectory(run: RunDir) -> None:
    hpc(run, "add", "demo/0", "3", "--verdict", "suboptimal", "--reason", "off <the> task", "--author", "ada")

    def show(*words: str) -> str:
        done = CliRunner().invoke(cli, ["traj", "show", "demo/0", *words], env={"HPC_RUNS": str(run.root.parent)})
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "sub-optimal (ada): off <the> task" in show("--steps", "3")
    assert "sub-optimal" not in show("--steps", "4")
    rows = re.findall(r'<script[^>]*id="rows"[^>]*>([^<]*)<', Path(show("--html").strip()).read_text())
    assert "off <the> task" in gzip.decompress(base64.b64decode(rows[0])).decode()


def test_looks_fine_becomes_a_label_of_the_annotator(run: RunDir) -> None:
    with TrajectoryWriter.open(run, 1) as writer:
        writer.append(raised := alert(7, 11))
    fact: dict[str, Any] = {
        "alert": raised.id,
        "episode": "demo-00001",
        "detector": raised.detector,
        "priority": "drift",
    }
    fact |= {"priority": "drift", "step": 11, "score": 0.9, "sent_at": 1.0}
    fact |= {"state": "false_alarm", "closed_by": "bob", "closed_at": 5.0}
    files.write_json(annals_path(run), {"run": "demo", "since": 0.0, "until": 9.0, "alerts": [fact], "replies": []})
    assert json.loads(hpc(run, "run", "demo/1", "--json"))[0]["by_people"] == len(set(raised.evidence) or {11})
    assert json.loads(hpc(run, "run", "demo/1", "--json"))[0]["by_people"] == 0
    people = [label for label in read_labels(run.labels(1)).current() if label.author_kind == "human"]
    assert {(label.author, label.verdict) for label in people} == {("bob", "optimal")}


def test_diff_says_what_a_changed_rule_would_change(run: RunDir) -> None:
    hpc(run, "run", "demo")
    assert json.loads(hpc(run, "diff", "demo", "--json")) == []
    path = run.labels(0)
    path.write_text(
        '{"type":"label","step":2,"verdict":"suboptimal","reason":"old","author_kind":"rule","author":"rules",'
        '"rule":"rollback","rule_version":1}\n'
        '{"type":"pass","author_kind":"rule","author":"rules","rule":"rollback","rule_version":1,"steps":12,"at":1.0}\n'
    )
    changed = json.loads(hpc(run, "diff", "demo/0", "--json"))
    assert [(row["step"], row["rule"], row["change"]) for row in changed] == [(2, "rollback", "gone")]


def test_unknown_names_are_said_with_what_there_is(run: RunDir) -> None:
    assert "blind_retry" in _error(run, "run", "demo", "--rule", "bogus")
    assert "default" in _error(run, "report", "demo", "--policy", "bogus")


def _error(run: RunDir, *arguments: str) -> str:
    done = CliRunner().invoke(cli, ["label", *arguments], env={"HPC_RUNS": str(run.root.parent)})
    assert done.exit_code != 0
    return f"{done.output} {done.exception}"


@pytest.mark.shared_data
def test_real_trajectories_of_others_are_labelled(run: RunDir, tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("the real data is not beside this checkout")
    files_ = [*sorted((SHARED / "swe-agent").glob("*.traj")), *sorted((SHARED / "who-and-when").glob("*.json"))[:40]]
    assert len(files_) >= 30
    folder = ("--labels-in", str(tmp_path / "labels"))
    rows = json.loads(hpc(run, "run", *map(str, files_), *folder, "--json"))
    assert len(rows) == len(files_)
    assert sum(row["labels"] for row in rows) > 10
    report = json.loads(hpc(run, "report", *map(str, files_), *folder, "--json"))
    assert report["kept"] + report["dropped"] == report["steps"] > 300


def test_steps_that_a_branch_left_behind_are_labelled_in_the_other_episode(run: RunDir) -> None:
    branch = BranchPoint(episode_id="demo-00000", run="demo", index=0, step=4, abandoned=9, at=1.0)
    first, *rest = episode(12, index=2)
    assert isinstance(first, EpisodeHeader)
    with TrajectoryWriter.open(run, 2) as writer:
        writer.append(msgspec.structs.replace(first, branched_from=branch), *rest)
        writer.seal()
    hpc(run, "run", "demo", "--rule", "abandoned_branch")
    assert [label.step for label in read_labels(run.labels(0)).current()] == [5, 6, 7, 8, 9]
    assert read_labels(run.labels(2)).current() == []
