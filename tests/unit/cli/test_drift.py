"""hpc drift: replaying and tuning detectors over stored trajectories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hpc.cli import cli
from hpc.core.errors import HpcError
from hpc.rundir import RunDir
from hpc.trajectories import sealed
from hpc.trajectories.records import VERDICTS, Action, ActionTaken, Observation, Observed, Record
from tests.unit.trajectories.samples import T0, attempt, header, outcome, run_dir

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli, ["drift", *map(str, arguments)], catch_exceptions=False)


def value(*arguments: str | Path) -> Any:
    return json.loads(invoke(*arguments, "--json").stdout)


def named(rows: list[dict[str, Any]], name: str, **fields: str) -> dict[str, Any]:
    (row,) = [row for row in rows if row["name"] == name and all(row[key] == fields[key] for key in fields)]
    return row


def records(index: int, errors_from: int | None, steps: int = 12, verdict_at: int | None = None) -> list[Record]:
    """An episode that fails at every step from ``errors_from`` on."""
    made: list[Record] = [header(index), attempt(1)]
    for step in range(1, steps + 1):
        failed = errors_from is not None and step >= errors_from
        info = {VERDICTS: [{"asked": step - 1, "drifting": True, "confidence": 0.9, "reason": "lost"}]}
        made += [
            ActionTaken(step=step, at=T0 + step, action=Action(name="run_command", arguments={"command": "x" * step})),
            Observed(
                step=step,
                at=T0 + step,
                observation=Observation(
                    text=f"error {'y' * step}" if failed else f"fine {'y' * step}",
                    is_error=failed,
                    info=info if step == verdict_at else {},
                ),
                working_seconds=float(step),
            ),
        ]
    return [*made, outcome(steps)]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Four episodes: 0 fails from step 3, 1 from step 6, 2 never, 3 from step 9."""
    made = run_dir(tmp_path)
    for index, errors_from in enumerate((3, 6, None, 9)):
        made.trajectory(index).write_bytes(sealed.build(records(index, errors_from)))
    return made


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("episode,step\ndemo-00000,3\ndemo-00001,6\ndemo-00002,\n")
    return path


THREE = "drift.error_streak.errors=3"


def test_figures_of_a_run_by_hand(run: RunDir, labels: Path) -> None:
    """Three errors in a row alert at steps 5, 8 and (unlabelled) 11."""
    found = value("replay", run.root, "--labels", labels, THREE, "drift.combined_at=null")
    assert (found["trajectories"], found["labelled"], found["steps"]) == (4, 3, 48)
    whole = named(found["rows"], "all detectors")
    assert (whole["alerts"], whole["mistakes"], whole["precision"]["value"], whole["recall"]["value"]) == (3, 2, 1, 1)
    assert whole["lead"]["value"] == -2
    assert whole["alerts_per_100"]["value"] == pytest.approx(100 * 3 / 48)
    alone = named(found["rows"], "error_streak")
    assert alone["kind"] == "detector" and alone["recall"] == whole["recall"]
    assert named(found["rows"], "repetition")["recall"]["value"] == 0
    assert [row["kind"] for row in found["rows"]].count("baseline") == 2


def test_the_window_decides_what_meets_a_mistake(run: RunDir, labels: Path) -> None:
    found = value("replay", run.root, "--labels", labels, THREE, "drift.combined_at=null", "--after", "1")
    assert named(found["rows"], "all detectors")["precision"]["value"] == 0


def test_without_labels_only_the_rate_is_told(run: RunDir) -> None:
    shown = invoke("replay", f"{run.root}/0", run.trajectory(2), THREE, "--runs", run.root.parent)
    cells = dict(line.split("\t", 1) for line in shown.stdout.splitlines())
    assert cells["all detectors"].split("\t")[:4] == ["1", "-", "-", "-"]
    assert cells["all detectors"].split("\t")[4].startswith("4.17 ")
    assert "see --labels" in shown.stderr


def test_labels_of_other_episodes_are_told_and_change_nothing(run: RunDir, labels: Path) -> None:
    shown = invoke("replay", run.trajectory(0), "--labels", labels, "--resamples", "0", THREE)
    assert "not replayed: demo-00001, demo-00002" in shown.stderr


def test_stored_verdicts_of_a_judge_are_replayed(tmp_path: Path) -> None:
    made = run_dir(tmp_path)
    made.trajectory(0).write_bytes(sealed.build(records(0, None, verdict_at=7)))
    assert named(value("replay", made.root, "drift.judge.enabled=true")["rows"], "judge")["alerts"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["drift=minilab"], "no trajectory to replay"),
        (["nowhere"], "nowhere"),
        (["RUN", "RUN/0"], "demo-00000 is named twice"),
        (["RUN", "drift.error_streak.error=2"], "unknown key 'drift.error_streak.error'"),
        (["RUN", "--labels", "none.csv"], "cannot read the labels none.csv"),
    ],
)
def test_bad_input_is_one_line(run: RunDir, arguments: list[str], says: str) -> None:
    with pytest.raises(HpcError) as caught:
        invoke("replay", *[each.replace("RUN", str(run.root)) for each in arguments], "--runs", run.root.parent)
    assert says in caught.value.message and caught.value.hint and caught.value.exit_code == 2


def test_the_detectors_are_listed(run: RunDir) -> None:
    listed = {line.split("\t")[0]: line.split("\t")[1:] for line in invoke("list", "drift=minilab").stdout.splitlines()}
    assert listed["monitoring"] == ["yes", "0.9", "polls=10"]
    assert listed["no_progress"][0] == listed["judge"][0] == "no"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("drift.judge.prompt=nope", "drift.judge.prompt is 'nope'"),
        ("drift.judge.api_key_env=NO_SUCH_KEY", "NO_SUCH_KEY"),
    ],
)
def test_a_judge_that_could_not_be_asked_is_refused_before_anything_is_submitted(
    tmp_path: Path, override: str, says: str
) -> None:
    judge = ["drift.judge.enabled=true", "drift.judge.url=http://127.0.0.1:9/v1", "drift.judge.model=m", override]
    with pytest.raises(HpcError) as caught:
        CliRunner().invoke(
            cli, ["episodes", "submit", "cluster=local", f"run.root={tmp_path}", *judge], catch_exceptions=False
        )
    assert says in caught.value.message
    assert not list(tmp_path.iterdir())


# ---- tune


def tunable(tmp_path: Path, count: int = 8) -> tuple[RunDir, Path]:
    """Episodes that fail from step 4 on, labelled there; the shipped limit of five errors is late."""
    run = run_dir(tmp_path)
    lines = ["episode,step"]
    for index in range(count):
        run.trajectory(index).write_bytes(sealed.build(records(index, 4)))
        lines.append(f"demo-{index:05d},4")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines))
    return run, labels


def test_a_better_limit_is_found_written_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, labels = tunable(tmp_path)
    target = tmp_path / "site" / "drift" / "tuned.yaml"
    options = [
        "--labels",
        labels,
        "--after",
        "1",
        "--over",
        "error_streak.errors=1,2,3",
        "--budget",
        "20",
        "--resamples",
        "9",
    ]
    command = ["tune", run.root, *options, "drift.no_progress.enabled=false", "drift.combined_at=null"]
    found = value(*command, "--write", target)
    assert found["changed"] == {"error_streak.errors": 1} and found["tried"] == 3
    assert set(found["choosing"]) | set(found["reporting"]) == {f"demo-{index:05d}" for index in range(8)}
    assert not set(found["choosing"]) & set(found["reporting"])
    assert named(found["rows"], "start", part="reporting")["recall"]["value"] == 0
    assert named(found["rows"], "tuned", part="reporting")["recall"]["value"] == 1
    assert named(found["rows"], "once, at step 4", part="reporting")["recall"]["value"] == 1  # told honestly
    with pytest.raises(HpcError, match="exists already"):
        invoke(*command, "--write", target)

    monkeypatch.setenv("HPC_CONFIG_PATH", str(tmp_path / "site"))
    from hpc.config import compose, to_builtins

    assert json.loads(json.dumps(to_builtins(compose("drift", ["drift=tuned"]).drift))) == found["drift"]
    assert compose("episodes", ["drift=tuned"]).drift.error_streak.errors == 1


def test_a_search_repeats_itself_and_keeps_to_its_budget(tmp_path: Path) -> None:
    run, labels = tunable(tmp_path)
    command = ["tune", run.root, "--labels", labels, "--trials", "6", "--budget", "9", "--resamples", "9"]
    found = value(*command)
    assert found == value(*command)
    assert found["tried"] <= 6
    assert named(found["rows"], "tuned", part="choosing")["alerts_per_100"]["value"] <= 9


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--over", "error_streak.errors"], "is not KEY=V1,V2"),
        (["--over", "error_streak.errors=0"], "error_streak.errors=0"),
        (["--over", "error_streak.nope=1"], "error_streak.nope"),
        (["--over", "nope.nope=1"], "no such key"),
    ],
    ids=str,
)
def test_values_that_cannot_be_tried_are_refused(run: RunDir, labels: Path, option: list[str], says: str) -> None:
    with pytest.raises(HpcError, match="--over") as caught:
        invoke("tune", run.root, "--labels", labels, *option)
    assert says in caught.value.message


def test_tuning_needs_mistakes_on_both_sides(run: RunDir) -> None:
    with pytest.raises(HpcError, match="no labelled mistake to choose on"):
        invoke("tune", run.root)


# ---- real data beside the checkout


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="no real data beside the checkout")
def test_annotated_failures_are_replayed() -> None:
    files = sorted((SHARED / "who-and-when").glob("*.json"))
    found = value("replay", *files, "drift.error_streak.errors=1", "--resamples", "50")
    assert found["trajectories"] == found["labelled"] == len(files) == 92
    whole = named(found["rows"], "all detectors")
    assert whole["mistakes"] == 92 and 0.3 < whole["precision"]["value"] < 0.8
    assert whole["precision"]["value"] > named(found["rows"], "random, same rate")["precision"]["value"]


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="no real data beside the checkout")
def test_swe_agent_trajectories_are_replayed() -> None:
    files = sorted((SHARED / "swe-agent").glob("*.traj"))
    found = value("replay", *files, "--resamples", "0")
    assert found["trajectories"] == len(files) == 8 and found["labelled"] == 0
    assert found["steps"] > 50
    assert named(found["rows"], "all detectors")["alerts_per_100"]["value"] == 0  # they all succeeded
