"""``hpc traj`` as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import msgspec
import pytest
from click.testing import CliRunner, Result

from hpc.cli import cli
from hpc.rundir import RunDir
from hpc.trajectories.records import SnapshotTaken
from hpc.trajectories.snapshots import Limits, SnapshotStore
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import episode, run_dir

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Four episodes: finished, running, damaged, finished."""
    made = run_dir(tmp_path_factory.mktemp("runs"))
    for index, (steps, finished) in enumerate([(13, True), (7, False), (20, True), (5, True)]):
        with TrajectoryWriter.open(made, index) as writer:
            writer.append(*episode(steps, index=index, finished=finished))
            if finished:
                writer.seal()
    path = made.trajectory(2)
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        chunk = file["logprobs"].id.get_chunk_info(0)
    data[chunk.byte_offset + chunk.size // 2] ^= 4
    path.write_bytes(data)
    return made


def hpc(run: RunDir, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hpc.cli", "traj", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HPC_RUNS": str(run.root.parent), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
    )


def within(run: RunDir, *arguments: str) -> Result:
    """The same in this process, for what does not depend on having one of its own."""
    done = CliRunner().invoke(cli, ["traj", *arguments], env={"HPC_RUNS": str(run.root.parent)})
    assert done.exit_code == 0, done.output
    return done


def test_ls_lists_every_state(run: RunDir) -> None:
    done = hpc(run, "ls", "demo", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["index"], row["status"]) for row in rows] == [
        (0, "finished"), (1, "running"), (2, "damaged"), (3, "finished"),
    ]  # fmt: skip
    assert rows[0]["score"] == 40.0
    assert rows[1]["best"] == 50.0
    assert hpc(run).stdout == hpc(run, "ls", "demo").stdout != ""


def test_ls_filters_and_sorts(run: RunDir) -> None:
    rows = json.loads(hpc(run, "ls", "--json", "--status", "finished", "--sort", "steps").stdout)
    assert [row["steps"] for row in rows] == [5, 13]


def test_ls_takes_ranges_and_patterns(run: RunDir) -> None:
    def indices(*options: str) -> list[int]:
        done = within(run, "ls", "--json", *options)
        return [row["index"] for row in json.loads(done.stdout)]

    assert indices("--steps", "6:13", "--guidance", "1:") == [0, 1]
    assert indices("--task", "minilab/[03]", "--sort", "steps", "--reverse", "--limit", "1") == [0]
    assert indices("--detector", "repeat", "--annotator", "a*", "--score", "40") == [0]
    assert indices("--sort", "best", "--reverse") == [0, 3, 1, 2]  # without a score last
    assert (run.root / "trajectories" / "index.json").is_file()


def test_ls_over_several_runs_names_them(run: RunDir) -> None:
    lines = within(run, "ls", "--all-runs", "--status", "finished").stdout.splitlines()
    assert [line.split("\t")[:3] for line in lines] == [["demo", "0", "finished"], ["demo", "3", "finished"]]
    assert len(within(run, "ls", "demo", str(run.root)).stdout.splitlines()) == 8


def test_stats_add_up(run: RunDir) -> None:
    value = json.loads(within(run, "stats", "demo", "--json").stdout)
    assert (value["trajectories"], value["steps"], value["statuses"]["damaged"]) == (4, 13 + 7 + 5, 1)
    assert value["guidance_per_100_steps"] == 100 * 3 / 25
    shown = within(run, "stats", "demo", "--status", "finished").stdout
    for part in ("18, each mean 9", "run_command", "errors by boundary", "2, 11.11 per 100 steps"):
        assert part in shown


def test_search_shows_the_steps_that_match(run: RunDir) -> None:
    done = within(run, "show", "demo/0", "--search", "schritt (3|12):", "-i")
    assert {number for number in range(1, 14) if f"Schritt {number}:" in done.stdout} == {3, 12}
    assert "⋯ steps 4 to 11 left out" in done.stdout
    near = within(run, "show", "demo/0", "--search", "Schritt 7:", "--context", "1", "--json")
    assert [step["step"] for step in json.loads(near.stdout)["step_records"]] == [6, 7, 8]
    assert "no step matches" in within(run, "show", "demo/0", "--search", "nowhere to be found").stderr
    followed = within(run, "show", "demo/3", "-f", "--json", "--search", "Schritt [24]:").stdout
    assert [json.loads(line)["step"] for line in followed.splitlines()] == [2, 4]
    assert "cobalt" in within(run, "show", "demo/0", "--search", "cobalt").stdout


def test_a_terminal_gets_colours_and_a_pipe_none(run: RunDir) -> None:
    import pty

    assert "\x1b" not in hpc(run, "show", "demo/0").stdout
    main, other = pty.openpty()
    environment = {
        **os.environ,
        "HPC_RUNS": str(run.root.parent),
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "PAGER": "cat",
    }
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "hpc.cli", "traj", "show", "demo/0", "--search", "cobalt"]
    process = subprocess.Popen(command, stdout=other, stdin=other, env=environment)
    os.close(other)
    out = b""
    try:
        while piece := os.read(main, 65536):
            out += piece
    except OSError:  # the other end is closed
        pass
    os.close(main)
    assert process.wait(timeout=60) == 0
    assert b"\x1b[" in out
    assert "┃ ".encode() in out


def test_show_html_writes_one_page(run: RunDir, tmp_path: Path) -> None:
    done = hpc(run, "show", "demo/0", "--html")
    assert done.stdout.strip() == str(run.root / "report" / "00000.html")
    assert (run.root / "report" / "00000.html").read_text().startswith("<!doctype html>")
    target = tmp_path / "page.html"
    assert hpc(run, "show", str(run.trajectory(3)), "--html", "--out", str(target)).returncode == 0
    assert "minilab/3" in target.read_text()


def test_show_json_has_what_programs_need(run: RunDir) -> None:
    value = json.loads(hpc(run, "show", "demo/0", "--json").stdout)
    assert (value["episode_id"], value["task"], value["attempts"], value["steps"]) == ("demo-00000", "minilab/0", 2, 13)
    assert value["outcome"] | {"status": "finished", "final_score": 40.0, "best_score": 53.3} == value["outcome"]
    assert {"id", "detector", "score", "step", "sent_at"} <= value["alerts"][0].keys()
    wanted = {"id", "alert_id", "annotator", "text", "sent_at", "delivered_at", "applied_at", "applied_step"}
    assert wanted <= value["guidance"][0].keys()
    assert "step_records" not in value


def test_show_json_lists_the_steps_asked_for(run: RunDir) -> None:
    value = json.loads(hpc(run, "show", str(run.trajectory(0)), "--json", "--steps", "12:").stdout)
    assert [step["step"] for step in value["step_records"]] == [12, 13]
    assert value["step_records"][0]["observed"]["observation"]["is_error"] is True


@pytest.mark.parametrize(("span", "steps"), [("3:4", {3, 4}), ("4", {4}), (":2", {1, 2}), ("13:", {13})])
def test_show_prints_the_steps_asked_for(run: RunDir, span: str, steps: set[int]) -> None:
    out = hpc(run, "show", "demo/0", "--steps", span).stdout
    assert {number for number in range(1, 14) if f"Schritt {number}:" in out} == steps


def test_show_tells_the_whole_story(run: RunDir) -> None:
    out = hpc(run, "show", "demo/0").stdout
    for part in (
        "attempt 2 on node2",
        "malformed: no tool call",
        "repeat 0.75",
        "ada (knowledge)",
        "finished after 13",
    ):
        assert part in out


def test_follow_prints_records_as_they_come(run: RunDir) -> None:
    done = hpc(run, "show", "demo/3", "--follow", "--json")
    kinds = [json.loads(line)["type"] for line in done.stdout.splitlines()]
    assert (kinds[0], kinds[-1], kinds.count("observation")) == ("header", "outcome", 5)


def test_terminal_control_in_an_observation_is_not_passed_on(tmp_path: Path) -> None:
    from msgspec.structs import replace

    records = episode(1)  # header, attempt, attempt, action, observation, outcome
    hostile = replace(records[4].observation, text="\x1b]0;title\x07\x1b[2Jhello\x9b31m")  # type: ignore[union-attr]
    records[4] = replace(records[4], observation=hostile)
    made = run_dir(tmp_path)
    with TrajectoryWriter.open(made, 0) as writer:
        writer.append(*records)
    out = hpc(made, "show", "demo/0", "--full").stdout
    assert "hello" in out
    assert not {"\x1b", "\x07", "\x9b"} & set(out)


@pytest.mark.parametrize(
    ("targets", "code"),
    [(["demo/0"], 0), (["demo/0", "demo/1"], 0), (["demo/2"], 3), (["demo/0", "demo/2"], 3), (["/etc/hostname"], 1)],
)
def test_check_says_what_is_whole(run: RunDir, targets: list[str], code: int) -> None:
    done = hpc(run, "check", "--json", *targets)
    assert done.returncode == code, done.stdout
    assert len(json.loads(done.stdout)) == len(targets)


def test_check_names_damage_and_what_is_left(run: RunDir) -> None:
    lines = hpc(run, "check", "demo/2").stdout.splitlines()
    assert lines[0].startswith("damaged  ")
    assert lines[0].endswith("records whole")
    assert any(line.startswith("  bytes: ") for line in lines)


@pytest.mark.parametrize(
    "words",
    [
        "show demo/2",
        "show demo/9",
        "show nowhere/0",
        "show no.h5",
        "show demo/0 --steps x",
        "show demo/0 --search [",
        "show demo/0 --out page.html",
        "show demo/0 --html --follow",
        "show demo/2 --html",
        "ls demo --score high",
        "stats nowhere",
        "ls nowhere",
        "show no.h5 -f",
    ],
)
def test_errors_name_the_fix_without_a_traceback(run: RunDir, words: str) -> None:
    done = hpc(run, *words.split())
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert "fix: " in done.stderr
    assert "Traceback" not in done.stderr


def test_check_takes_a_whole_run(run: RunDir) -> None:
    done = hpc(run, "check", "demo")
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("3 of 4 whole, ") and "hpc traj repair" in lines[-1]
    states = [next(state for state in ("whole", "damaged") if state in line) for line in lines[-5:-1]]
    assert states == ["whole", "whole", "damaged", "whole"]
    reports = json.loads(hpc(run, "check", "demo", "--json").stdout)
    assert [report["state"] for report in reports] == states
    assert hpc(run, "check", "demo/0", "demo/1").returncode == 0
    assert hpc(run, "check", "demo", "demo/0", "--json").returncode == 3
    assert hpc(run, "check", "no-such-run").returncode == 2


def test_check_of_a_run_reads_its_workspaces(tmp_path: Path) -> None:
    made, workspace = run_dir(tmp_path, "shots"), tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "result.txt").write_text("450C")
    store = SnapshotStore(made.snapshots)
    taken = store.take(workspace, Limits())
    records = [
        msgspec.structs.replace(record, id=taken.id) if isinstance(record, SnapshotTaken) else record
        for record in episode(12)
    ]
    with TrajectoryWriter.open(made, 0) as writer:
        writer.append(*records)
        writer.seal()
    assert hpc(made, "check", "shots").returncode == 0
    listed = json.loads(hpc(made, "snapshot", "ls", "shots", "--json").stdout)
    assert [(one["index"], one["step"], one["id"]) for one in listed] == [(0, 10, taken.id)]
    assert hpc(made, "snapshot", "restore", "shots/0", "--out", str(tmp_path / "again")).returncode == 0
    assert (tmp_path / "again" / "result.txt").read_text() == "450C"
    assert hpc(made, "snapshot", "restore", "shots/0", "--step", "9", "--out", str(tmp_path / "b")).returncode == 2
    next(made.snapshots.glob("objects/*/*")).unlink()
    [report] = json.loads(hpc(made, "check", "shots", "--json").stdout)
    assert report["state"] == "damaged" and report["findings"][0]["kind"] == "snapshot"
    assert hpc(made, "check", "shots", "--no-snapshots").returncode == 0
    assert hpc(made, "snapshot", "prune", "shots").returncode == 0
