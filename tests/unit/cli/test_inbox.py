"""What `hpc inbox` shows of an episode without any router, and how it reads its options."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest

from hpc.cli import main
from hpc.cli.inbox_answers import _time_of
from hpc.cli.inbox_history import pattern_of, read_history, span_of
from hpc.cli.inbox_views import alert_cells, alert_lines, live_view, reply_line
from hpc.core.errors import UsageError
from hpc.router.desk import AlertCard, EpisodeCard, GuidanceCard
from hpc.rundir import RunDir
from hpc.trajectories.records import (
    Action,
    ActionTaken,
    AlertRaised,
    EpisodeHeader,
    Evaluation,
    GuidanceApplied,
    Observation,
    Observed,
    Record,
)
from hpc.trajectories.writer import TrajectoryWriter

NOON = datetime.datetime(2026, 11, 27, 12, 0).timestamp()


def records(steps: int) -> list[Record]:
    found: list[Record] = [
        EpisodeHeader(
            episode_id="mine-00003", run="mine", index=3, task_id="lab", task_family="f", split="train", seed=0,
            config_hash="0", created_at=0.0,
        )
    ]  # fmt: skip
    for step in range(1, steps + 1):
        text = f"line one\nloss is {'nan' if step == 4 else step}\n" + "noise\n" * 20
        evaluation = Evaluation(score=10.0 * step) if step == 5 else None
        found += [
            ActionTaken(
                step=step, at=float(step), action=Action(name="run_command", arguments={"command": f"train {step}"})
            ),
            Observed(step=step, at=step + 0.5, observation=Observation(text=text, evaluation=evaluation)),
        ]
        if step == 4:
            found += [
                AlertRaised(id="mine-00003-a4", detector="loop", score=0.9, step=4, reason="no progress \x1b[2J"),
                GuidanceApplied(
                    id="gu-1", alert_id="mine-00003-a4", annotator="ada", text="lower the rate", kind="strategy",
                    sent_at=1.0, delivered_at=2.0, applied_at=3.0, applied_step=4,
                ),
            ]  # fmt: skip
    return found


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path / "mine", manifest={}, config={}, config_hash="0")
    with TrajectoryWriter.open(run, 3) as writer:
        writer.append(*records(9))
    return run


def steps_of(run: RunDir, **wanted: Any) -> list[int]:
    values: dict[str, Any] = {"last": 5, "span": None, "search": None, **wanted}
    return [step["step"] for step in read_history(run, 3, **values)]


def test_the_wanted_steps(run: RunDir) -> None:
    assert steps_of(run) == [5, 6, 7, 8, 9]
    assert steps_of(run, last=100) == list(range(1, 10))
    assert steps_of(run, span=span_of("2:3")) == [2, 3]
    assert steps_of(run, span=span_of("8:")) == [8, 9]
    assert steps_of(run, span=span_of(":2")) == [1, 2]
    assert steps_of(run, span=span_of("99")) == []


@pytest.mark.parametrize(
    ("search", "found"),
    [("NAN", [4]), ("train [29]", [2, 9]), ("lower the rate", [4]), ("no progress", [4]), ("absent", [])],
)
def test_the_whole_episode_is_searched(run: RunDir, search: str, found: list[int]) -> None:
    assert steps_of(run, search=pattern_of(search)) == found
    assert steps_of(run, search=pattern_of(search), span=(5, 9)) == [step for step in found if step >= 5]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["inbox", *arguments])
    output = capsys.readouterr()
    return int(caught.value.code or 0), output.out, output.err


def test_an_episode_is_shown_without_a_router(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ["--runs", str(run.root.parent)]
    code, out, err = shown(capsys, *runs, "show", "mine-00003-a4", "--steps", "4:5")
    assert code == 0
    assert err == "note: no router is running for mine\n"
    assert 'step 4    run_command {"command": "train 4"}' in out
    assert "| loss is nan" in out
    assert "… 14 lines …" in out
    assert "▲ mine-00003-a4 loop 0.90: no progress ?[2J" in out
    assert "● ada (strategy): lower the rate" in out
    assert "score 50.0" in out
    code, out, _ = shown(capsys, *runs, "show", "3", "--search", "nan")
    assert (code, re.findall(r"^step (\d+)", out, flags=re.MULTILINE)) == (0, ["4"])
    assert "noise" not in out, "only the lines that match"
    code, out, _ = shown(capsys, *runs, "show", "3", "--last", "1", "--json")
    assert [step["step"] for step in json.loads(out)["history"]] == [9]
    code, _, err = shown(capsys, *runs, "show", "other-00003-a1")
    assert (code, err.splitlines()[0]) == (1, "error: no router is running for mine")


@pytest.mark.parametrize("text", ["", "x", "3:x", ":", "1:2:3"])
def test_what_is_no_range_of_steps(text: str) -> None:
    with pytest.raises(UsageError, match="is not a range"):
        span_of(text)


def test_what_is_no_regular_expression() -> None:
    with pytest.raises(UsageError, match="is not a regular expression"):
        pattern_of("(")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("2h", 7200), ("1d", 86400), ("1.5h", 5400), ("13:00", 3600), ("11:00", 23 * 3600),
     ("2026-11-27T12:01", 60)],
)  # fmt: skip
def test_times_to_come(text: str, seconds: float) -> None:
    assert _time_of(text, NOON) == NOON + seconds


@pytest.mark.parametrize(
    ("text", "why"), [("soon", "no time"), ("25:00", "no time"), ("2020-01-01", "is past"), ("", "no time")]
)
def test_what_is_no_time_to_come(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        _time_of(text, NOON)


def card(**fields: Any) -> AlertCard:
    values: dict[str, Any] = {
        "alert": "mine-00003-a4", "episode": "mine-00003", "run": "mine", "task": "lab", "detector": "loop",
        "score": 0.5, "step": 4, "reason": "stuck", "priority": "drift", "evidence": [], "sent_at": 1.0,
        "state": "open", "last_step": 4, "last_at": 1.0,
    }  # fmt: skip
    return AlertCard(**{**values, **fields})


def test_an_alert_says_whose_it_is_how_often_it_came_and_that_it_was_held_back() -> None:
    alert = card(owner="ada\x1b", claimed_until=4e9, count=3, last_step=12, held="budget", escalated_to=["U1", "S2"])
    cells = alert_cells(alert)
    assert cells[1:3] == ["open, held (budget)", "ada?"]
    assert cells[6:8] == ["4–12", "×3"]
    lines = "\n".join(alert_lines(alert, []))
    assert "×3 at steps 4–12" in lines
    assert "claimed   by ada? until 2096-" in lines
    assert "held      back from the channel: the hour's budget was spent" in lines
    assert "called    U1, S2" in lines
    assert "merged    into mine-00003-a1" in "\n".join(
        alert_lines(card(state="merged", merged_into="mine-00003-a1"), [])
    )


def test_a_reply_says_how_far_it_is_and_how_long_it_is_good_for() -> None:
    reply = GuidanceCard(
        guidance="gu-1", key="k", episode="mine-00003", alert=None, annotator="ada", text="left", sent_at=1.0,
        delivered_at=None, applied_at=None, applied_step=None, state="expired", valid_until_step=40, valid_until=4e9,
    )  # fmt: skip
    assert re.fullmatch(
        r"ada: left  \[expired\] \(valid until step 40, until 2096-\d\d-\d\d \d\d:\d\d\)  gu-1", reply_line(reply)
    )


def test_the_live_view_names_what_there_is_and_what_is_wrong() -> None:
    from rich.console import Console

    def text_of(**fields: Any) -> str:
        values: dict[str, Any] = {"alerts": [], "episodes": [], "problem": "", **fields}
        console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(live_view("mine", **values))
        console.file.close()
        return console.export_text()

    episode = EpisodeCard(
        episode="mine-00003", run="mine", index=3, task="lab", state="running", step=9, drift=0.1, score=None,
        open_alerts=1, seen_at=1.0,
    )  # fmt: skip
    whole = text_of(alerts=[card(owner="ada", reason="[red]not markup")], episodes=[episode, episode])
    assert "mine   2 running   1 alert " in whole
    assert "ada" in whole
    assert "[red]not markup" in whole
    assert "no router" in text_of(problem="no router is running for mine")
