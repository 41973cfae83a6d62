"""`hpc router` and `hpc inbox` against a real router."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc.core import files
from hpc.rundir import RunDir
from tests.integration.router_support import AgentProcess, RouterProcess, make_run, wait_until


def hpc(run: RunDir, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hpc.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "HPC_RUNS": str(run.root.parent)},
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "runs" / "mine")


@pytest.fixture
def agent(run: RunDir) -> Iterator[AgentProcess]:
    with RouterProcess(run), AgentProcess(run, 3) as process:
        yield process


def listed(run: RunDir) -> list[dict[str, object]]:
    return list(json.loads(hpc(run, "inbox", "list", "--json").stdout))


def test_an_alert_is_listed_shown_and_answered(run: RunDir, agent: AgentProcess) -> None:
    name = agent.alert(7, "stuck \x1b[2Jat the\nsecond stage")
    [card] = wait_until(lambda: listed(run))
    assert (card["alert"], card["state"], card["step"]) == (name, "open", 7)
    table = hpc(run, "inbox").stdout
    assert table.startswith(f"{name}\topen\t\tdrift\ttest\t0.90\t7\t")
    assert "\x1b" not in table, "agent text cannot move the cursor"

    answered = hpc(run, "inbox", "reply", name, "turn left", "--kind", "knowledge", "--as", "ada")
    assert answered.returncode == 0
    assert answered.stdout.startswith("gu-"), "the id of the reply, for --replaces"
    assert answered.stderr == f"accepted, on its way to {agent.episode}\n"
    wait_until(agent.applied)
    assert hpc(run, "inbox").stdout == ""
    shown = wait_until(lambda: text if "applied at step 1" in (text := hpc(run, "inbox", "show", name).stdout) else "")
    assert f"{name}  answered" in shown
    assert "reply     ada: turn left  [applied at step 1]" in shown
    assert "\x1b" not in shown


def test_an_episode_is_guided_unasked_paused_and_stopped(run: RunDir, agent: AgentProcess) -> None:
    wait_until(lambda: json.loads(hpc(run, "inbox", "episodes", "--json").stdout))
    reply = hpc(run, "inbox", "reply", "--episode", "3", "read the log", "--json")
    assert json.loads(reply.stdout)["verdict"] == "accepted"
    wait_until(agent.applied)
    assert agent.applied() == ["read the log"]
    assert hpc(run, "inbox", "reply", agent.episode, "--control", "pause").returncode == 0
    wait_until(lambda: agent.order(do="state")["paused"])
    assert hpc(run, "inbox", "reply", "--episode", "3", "--control", "stop").returncode == 0
    wait_until(lambda: agent.order(do="state")["stop"])


def test_the_run_may_be_named_before_or_after_the_verb(run: RunDir, agent: AgentProcess) -> None:
    agent.alert(1)
    wait_until(lambda: listed(run))
    make_run(run.root.parent / "newer")
    assert hpc(run, "inbox").returncode == 1, "the newest run has no router"
    for arguments in (["--run", "mine"], ["--run", "mine", "list"], ["list", "--run", "mine"]):
        assert hpc(run, "inbox", *arguments).stdout.startswith("mine-00003-a1\topen")
    assert "mine-00003-a1  open" in hpc(run, "inbox", "show", "mine-00003-a1").stdout, "the id names its run"


def test_alerts_are_closed(run: RunDir, agent: AgentProcess) -> None:
    name = agent.alert(1)
    wait_until(lambda: listed(run))
    assert hpc(run, "inbox", "resolve", name, "--false-alarm").returncode == 0
    again = hpc(run, "inbox", "resolve", name)
    assert (again.returncode, again.stderr.splitlines()[0]) == (2, f"error: alert {name} is not open any more")
    assert json.loads(hpc(run, "inbox", "list", "--all", "--json").stdout)[0]["state"] == "false_alarm"


def test_two_people_at_their_terminals_share_the_alerts(run: RunDir, agent: AgentProcess) -> None:
    name = agent.alert(1)
    wait_until(lambda: listed(run))
    claimed = hpc(run, "inbox", "claim", name, "--as", "ada")
    assert (claimed.returncode, claimed.stderr.startswith(f"{name} is yours until ")) == (0, True)
    late = hpc(run, "inbox", "claim", name, "--as", "bob", "--json")
    assert late.returncode == 1
    assert late.stderr.startswith(f"error: ada has claimed {name} until ")
    assert json.loads(late.stdout)["status"] == "held"
    assert hpc(run, "inbox").stdout.startswith(f"{name}\topen\tada\t")
    assert "claimed   by ada until" in hpc(run, "inbox", "show", name).stdout
    refused = hpc(run, "inbox", "release", name, "--as", "bob")
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (2, f"error: {name} belongs to ada, not to bob")
    assert hpc(run, "inbox", "release", name, "--as", "ada").returncode == 0
    assert listed(run)[0]["owner"] is None
    unknown = hpc(run, "inbox", "claim", "mine-00003-a9")
    assert (unknown.returncode, unknown.stderr.splitlines()[0]) == (2, "error: alert mine-00003-a9 does not exist")


def test_a_reply_says_how_long_it_is_good_for_and_is_corrected(run: RunDir, agent: AgentProcess) -> None:
    agent.order(do="begin")  # a long step
    name = agent.alert(1)
    wait_until(lambda: listed(run))
    first = hpc(run, "inbox", "reply", name, "left", "--until-step", "40", "--until", "2h").stdout.strip()
    second = subprocess.run(
        [sys.executable, "-m", "hpc.cli", "inbox", "reply", name, "-", "--replaces", first, "--json"],
        input="right,\nthen straight on\n",
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HPC_RUNS": str(run.root.parent), "HPC_ANNOTATOR": "bob"},
    )
    reply = json.loads(second.stdout)["reply"]
    assert (reply["replaces"], reply["annotator"], reply["text"]) == (first, "bob", "right,\nthen straight on")

    def replies() -> dict[str, dict[str, object]]:
        shown = json.loads(hpc(run, "inbox", "show", name, "--json").stdout)
        return {reply["text"]: reply for reply in shown["replies"]}

    left = wait_until(lambda: (found := replies()["left"])["state"] == "superseded" and found)
    assert left["valid_until_step"] == 40
    agent.order(do="end", step=5)
    wait_until(lambda: agent.applied() == ["right,\nthen straight on"])


def test_a_watcher_sees_each_change_and_outlives_the_router(run: RunDir) -> None:
    with RouterProcess(run) as router, AgentProcess(run, 3) as agent, router.inbox() as people:
        name = agent.alert(1)
        wait_until(people.alerts)
        watcher = subprocess.Popen(
            [sys.executable, "-m", "hpc.cli", "inbox", "watch", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HPC_RUNS": str(run.root.parent)},
        )
        assert watcher.stdout is not None
        assert watcher.stderr is not None
        seen = [json.loads(watcher.stdout.readline())]
        people.claim(name, annotator="ada")
        seen.append(json.loads(watcher.stdout.readline()))
        people.stop()
        assert "waiting for one" in watcher.stderr.readline()
        with RouterProcess(run) as again, again.inbox() as others:
            others.release(name, annotator="ada")
            seen.append(json.loads(watcher.stdout.readline()))
        watcher.send_signal(signal.SIGINT)
        watcher.communicate()
    assert watcher.returncode == 130
    assert [(card["alert"], card["owner"]) for card in seen] == [(name, None), (name, "ada"), (name, None)]


def test_figures_outlive_the_router(run: RunDir) -> None:
    nothing = hpc(run, "inbox", "stats")
    assert (nothing.returncode, nothing.stderr.splitlines()[0]) == (
        1,
        "error: no router has left figures of mine yet",
    )
    with RouterProcess(run) as router, AgentProcess(run, 3) as agent, router.inbox() as people:
        first, second = agent.alert(1), agent.alert(2)
        wait_until(lambda: len(people.alerts()) == 2)
        people.reply(first, "left", annotator="ada")
        people.resolve(second, annotator="bob", verdict="false_alarm")
        wait_until(lambda: (found := people.alert(first)) is not None and found[1][0].state == "applied")
        people.stop()
        router.wait()
    found = json.loads(hpc(run, "inbox", "stats", "mine", "--json").stdout)
    total = found["total"]
    assert (total["alerts"], total["answered"], total["false_alarms"], total["applied"]) == (2, 1, 1, 1)
    assert (total["answered_share"], total["false_alarm_share"], total["acceptance"]) == (0.5, 0.5, 1.0)
    assert list(found["detectors"]) == ["test"]
    assert found["annotators"]["bob"]["false_alarms"] == 1
    table = hpc(run, "inbox", "stats").stdout
    assert "figure\tacceptance\t100 %\n" in table
    assert "\nannotator\tada\t1\t" in table
    labels = {alert["alert"]: alert["state"] for alert in files.read_json(run.router_dir / "annotators.json")["alerts"]}
    assert labels == {first: "answered", second: "false_alarm"}
    report = hpc(run, "episodes", "report", "mine").stdout.strip()
    assert "annotators&#39; time" in Path(report).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "mine-00003-a9"], "error: no alert mine-00003-a9"),
        (["resolve", "mine-00003-a9"], "error: alert mine-00003-a9 does not exist"),
        (["reply", "mine-00099", "hello"], "error: no alert and no episode mine-00099"),
        (["reply", "mine-00003", "  "], "error: there is no text"),
    ],
)
def test_what_does_not_exist_is_a_usage_error(
    run: RunDir, agent: AgentProcess, arguments: list[str], message: str
) -> None:
    result = hpc(run, "inbox", *arguments)
    assert (result.returncode, result.stderr.splitlines()[0]) == (2, message)


def test_without_a_router_the_inbox_says_how_to_start_one(run: RunDir) -> None:
    result = hpc(run, "inbox")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: no router is running for mine",
        "  fix: start it: hpc router start mine",
    ]


def test_the_life_of_a_router_as_its_status_tells_it(run: RunDir) -> None:
    def state() -> str:
        return str(json.loads(hpc(run, "router", "status", "--json").stdout)["state"])

    assert state() == "never started"
    with RouterProcess(run) as router:
        assert state() == "running"
        with AgentProcess(run, 0) as agent:
            agent.alert(1)
            wait_until(lambda: router.status().get("alerts_open") == 1)
            shown = hpc(run, "router").stdout
            assert "alerts_open\t1\n" in shown
            assert "state\trunning\n" in shown
        assert hpc(run, "router", "stop", "mine").returncode == 0
        assert router.wait() == 0
    assert state() == "ended"
    assert "secret" not in hpc(run, "router", "status").stdout


def test_ctrl_c_ends_a_router_in_the_foreground(run: RunDir) -> None:
    with RouterProcess(run) as router:
        assert router.terminate() == 0
    assert not run.router.exists()
    assert "Traceback" not in router.log.read_text()


def test_slack_without_tokens_fails_with_one_line(run: RunDir) -> None:
    config = files.read_json(run.config)
    config["config"]["annotators"]["slack"] = {"channel": "C0123456789", "annotators": ["U0123456789"]}
    files.write_json(run.config, config)
    result = subprocess.run(
        [sys.executable, "-m", "hpc.cli", "router", "start", str(run.root), "--foreground", "--annotators", "slack"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("SLACK_")},
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: no SLACK_BOT_TOKEN and no SLACK_APP_TOKEN")
    assert "Traceback" not in result.stderr


def test_annotators_can_be_chosen_only_in_the_foreground(run: RunDir) -> None:
    result = hpc(run, "router", "start", "mine", "--annotators", "slack")
    assert result.returncode == 2
    assert "add --foreground" in result.stderr
