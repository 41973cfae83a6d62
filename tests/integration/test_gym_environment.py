"""The environment as the agent's loop uses it, with real shells and a hidden evaluator."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from hpc.config.gym import GymConfig
from hpc.config.task import TaskConfig
from hpc.core.errors import EvaluatorError, GymError
from hpc.gym.environment import Gym
from hpc.tasks.minilab.facts import KNOBS
from hpc.tasks.minilab.task import MiniLab
from hpc.trajectories.records import Action, Observation

CONFIG = GymConfig(wait_limit_s=20.0, sleep_cap_s=0.01)


class CountingTask:
    """The score is the number in ``answer.txt``; lines ``progress N`` are the public progress."""

    family = "counting"
    split = "train"
    max_evaluations = 3

    def __init__(self, task_id: str = "counting-1") -> None:
        self.id = task_id
        self.evaluations = 0
        self.stopped = False

    def prepare(self, workspace: Path) -> None:
        if not (workspace / "answer.txt").exists():
            (workspace / "answer.txt").write_text("0\n")

    def description(self) -> str:
        return "count"

    async def start(self, workspace: Path, state: dict[str, Any], save: Callable[[], None]) -> dict[str, str]:
        state["starts"] = state.get("starts", 0) + 1
        save()
        return {"COUNTING_STARTS": str(state["starts"])}

    async def evaluate(self, workspace: Path) -> tuple[float, str]:
        self.evaluations += 1
        return float((workspace / "answer.txt").read_text()), f"evaluation {self.evaluations}"

    def progress(self, observation_text: str) -> float | None:
        _, found, number = observation_text.partition("progress ")
        return float(number.split()[0]) if found else None

    async def stop(self) -> None:
        self.stopped = True


def _make(folder: Path, config: GymConfig = CONFIG, task: CountingTask | None = None) -> Gym:
    return Gym(task or CountingTask(), folder / "workspace", folder / "task.json", config)


@pytest.fixture
async def gym(tmp_path: Path) -> AsyncIterator[Gym]:
    gym = _make(tmp_path)
    await gym.start()
    yield gym
    await gym.close()


async def _do(gym: Gym, name: str, **arguments: Any) -> Observation:
    return await gym.step(gym.check(Action(name=name, arguments=arguments, call_id="c")))


async def _shell(gym: Gym, command: str) -> Observation:
    return await _do(gym, "run_command", command=command, session_id="lab", wait_for_completion=True)


async def test_a_session_of_work(gym: Gym) -> None:
    said = [
        (await _do(gym, "create_session", session_id="lab")).text,
        (await _do(gym, "list_files")).text,
        (await _do(gym, "open_file", path="answer.txt")).text,
        (await _do(gym, "edit_file", path="answer.txt", content="40")).text,
        (await _shell(gym, "cat answer.txt; pwd")).text,
        (await _do(gym, "eval")).text,
        (await _do(gym, "think", thought="more")).text,
        (await _do(gym, "create_file", filename="answer.txt", content="80")).text,
        (await _do(gym, "search_file", search_term="8", file_path="answer.txt")).text,
        (await _do(gym, "sleep", sleep_time=1800)).text,
        (await _do(gym, "get_session_status", session_id="lab")).text,
        (await _do(gym, "list_sessions")).text,
        (await _do(gym, "close_session", session_id="lab")).text,
        (await _do(gym, "list_sessions")).text,
    ]
    finish = await _do(gym, "finish")
    final = await gym.final_evaluation()

    assert said == [
        "session lab ready on localhost",
        "answer.txt",
        "answer.txt (1 lines)\n1: 0",
        "answer.txt lines 1-1 edited, 1 lines",
        f"40\n{gym.workspace}\n[exit 0]",
        "score 40.0 evaluation 1; 2 evaluations left",
        "ok",
        "answer.txt created, 1 lines",
        "answer.txt (1 matches)\n1: 80",
        "slept 0.01 s",
        "lab on localhost [exit 0]",
        "lab on localhost [exit 0]",
        "session lab closed",
        "(no sessions)",
    ]
    assert (finish.text, finish.terminated) == ("finished", True)
    assert (final.score, final.forced, final.left) == (80.0, True, 2)
    assert gym.best_score == 80.0


async def test_background_work_and_polling(gym: Gym) -> None:
    started = await _do(gym, "run_command", command="read -r x; echo progress $x; exit 4", session_id="job")
    idle = await _do(gym, "get_session_output", session_id="job")
    busy = await _do(gym, "check_session_idle", session_id="job")
    refused = await _do(gym, "run_command", command="true", session_id="job")
    await _do(gym, "input_in_session", session_id="job", input_text="0.5")
    deadline = time.monotonic() + 30
    while (look := await _do(gym, "get_session_output", session_id="job")).text.endswith("[running]"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    again = await _do(gym, "get_session_output", session_id="job")

    assert (started.text, started.polling) == ("started in session job", False)
    assert (idle.text, idle.polling, idle.job_progressed) == ("[running]", True, False)
    assert (busy.text, busy.polling) == ("busy", True)
    assert (refused.is_error, refused.boundary) == (True, "tool")
    assert refused.text == "error: session job is busy: a command runs in it"
    assert look.text == "progress 0.5\nexit\n[exit 4]"
    assert (look.polling, look.job_progressed, look.progress) == (True, True, 0.5)
    assert (again.text, again.job_progressed) == (look.text, False)


async def test_a_sleep_sees_that_work_went_on(tmp_path: Path) -> None:
    gym = _make(tmp_path, GymConfig(sleep_cap_s=0.2))
    await gym.start()
    try:
        await _do(gym, "run_command", command="while :; do echo x; sleep 0.01; done", session_id="job")
        assert (await _do(gym, "sleep", sleep_time=5)).job_progressed
    finally:
        await gym.close()


async def test_a_command_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    gym = _make(tmp_path, GymConfig(wait_limit_s=0.3))
    await gym.start()
    try:
        observation = await _shell(gym, "echo begun; sleep 1000")
        assert observation.text == "begun\n[killed after 0.3 s]"
        assert (observation.is_error, observation.boundary) == (True, "tool")
        assert (await _shell(gym, "echo on")).text == "on\n[exit 0]"
    finally:
        await gym.close()


async def test_shown_output_is_bounded(gym: Gym) -> None:
    waited = await _shell(gym, "seq 1 500")
    looked = await _do(gym, "get_session_output", session_id="lab", start_lines=3, end_lines=1)
    since = await _do(gym, "get_session_output", session_id="lab", since_timestamp=0)
    huge = await _shell(gym, "for i in $(seq 100); do head -c 3000 /dev/zero | tr '\\0' x; echo; done")

    assert waited.text.split("\n") == [*(str(n) for n in range(451, 501)), "[exit 0]"]
    assert looked.text == "498\n499\n[exit 0]"
    assert since.text.startswith("1\n2\n")
    assert len(huge.text) <= 30_100


async def test_mistakes_are_observations(gym: Gym) -> None:
    cases = [
        (Action(name="null", problem="no tool call in the answer"), "model", "error: no tool call in the answer"),
        (Action(name="null"), "model", "error: unknown action 'null'"),
        (Action(name="fly"), "model", "error: unknown action 'fly'"),
        (Action(name="think", arguments={"idea": "x"}), "model", "error: unknown argument 'idea' of think"),
        (Action(name="open_file", arguments={"path": "../task.json"}), "tool", "error: ../task.json is outside"),
        (Action(name="get_session_output", arguments={"session_id": "x"}), "tool", "error: no session x; open: none"),
        (
            Action(name="create_session", arguments={"session_id": "x", "computer_ip": "10.1.1.1"}),
            "tool",
            "error: unknown computer '10.1.1.1'; known: localhost",
        ),
        (Action(name="create_session", arguments={"session_id": "a\nb"}), "tool", "error: a session's name"),
        (
            Action(name="run_command", arguments={"session_id": "x", "command": "a\0b"}),
            "tool",
            "error: a command cannot",
        ),
    ]
    for action, boundary, text in cases:
        observation = await gym.step(gym.check(action))
        assert (observation.is_error, observation.boundary, observation.terminated) == (True, boundary, False)
        assert observation.text.startswith(text), observation.text


async def test_checking_names_the_problem_and_keeps_the_call(gym: Gym) -> None:
    good = Action(name="think", arguments={"thought": "x"}, call_id="c1")
    bad = gym.check(Action(name="think", arguments={}, call_id="c2"))

    assert gym.check(good) is good
    assert (bad.name, bad.call_id) == ("null", "c2")
    assert bad.problem == "missing argument 'thought' of think; known: thought"
    assert gym.check(bad) is bad


async def test_a_failing_command_is_an_error_of_the_tool(gym: Gym) -> None:
    observation = await _shell(gym, "echo no >&2; exit 2")

    assert (observation.is_error, observation.boundary) == (True, "tool")
    assert observation.info == {"exit_code": 2}


async def test_secrets_of_the_job_stay_in_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLACK_BOT_TOKEN", "SLACK_APP_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "HOME"):
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    gym = _make(tmp_path)
    await gym.start()
    try:
        seen = await _shell(gym, "env; cat /proc/$$/environ /proc/$PPID/environ | tr '\\0' '\\n'; set")
        own = await _shell(gym, 'echo "$COUNTING_STARTS $CUDA_VISIBLE_DEVICES $HOME"')
    finally:
        await gym.close()

    assert "hush-hush" not in seen.text
    assert "SLACK" not in seen.text
    assert own.text == f"1 3 {tmp_path / 'workspace'}\n[exit 0]"


async def test_evaluations_are_counted_across_processes(tmp_path: Path) -> None:
    scores = []
    for answer in ("10", "30", "20", "25"):  # each time a new process
        gym = _make(tmp_path)
        await gym.start()
        await _do(gym, "edit_file", path="answer.txt", content=answer)
        observation = await _do(gym, "eval")
        scores.append(observation.evaluation.score if observation.evaluation else observation.text)
        await gym.close()

    gym = _make(tmp_path)
    await gym.start()
    final = await gym.final_evaluation()
    again = await gym.final_evaluation()
    await gym.close()

    assert scores == [10.0, 30.0, 20.0, "error: no evaluations left"]
    assert (final.score, final.left) == (25.0, 0)
    assert again == final
    assert gym.task.evaluations == 1  # type: ignore[attr-defined]
    state = json.loads((tmp_path / "task.json").read_text())
    assert [verdict["score"] for verdict in state["verdicts"]] == [10.0, 30.0, 20.0]
    assert state["task"] == {"starts": 5}


async def test_an_evaluator_that_breaks(tmp_path: Path) -> None:
    gym = _make(tmp_path)
    await gym.start()
    try:
        await _do(gym, "edit_file", path="answer.txt", content="not a number")
        observation = await _do(gym, "eval")
        assert (observation.is_error, observation.boundary) == (True, "evaluator")
        assert observation.text == "error: the evaluator failed; this submission is not spent"
        with pytest.raises(EvaluatorError):
            await gym.final_evaluation()
    finally:
        await gym.close()


async def test_what_still_runs_cannot_change_what_is_judged(gym: Gym, tmp_path: Path) -> None:
    await _do(gym, "run_command", command="while :; do echo 99 > new; mv new answer.txt; done", session_id="cheat")

    await gym.final_evaluation()
    (tmp_path / "workspace" / "answer.txt").write_text("5\n")

    assert (await _do(gym, "list_sessions")).text == "(no sessions)"
    assert (tmp_path / "workspace" / "answer.txt").read_text() == "5\n"


async def test_starting_again_keeps_the_work(tmp_path: Path) -> None:
    for round_ in range(2):
        gym = _make(tmp_path)
        assert await gym.start() == "count"
        assert await gym.start() == "count"
        text = (await _do(gym, "open_file", path="answer.txt")).text
        assert text == f"answer.txt (1 lines)\n1: {7 * round_}"
        await _do(gym, "edit_file", path="answer.txt", content="7")
        await gym.close()
        await gym.close()
        assert gym.task.stopped  # type: ignore[attr-defined]


async def test_state_of_another_task_is_refused(tmp_path: Path) -> None:
    first = _make(tmp_path)
    await first.start()
    await first.close()

    with pytest.raises(GymError, match="belongs to task counting-1, not counting-2"):
        await _make(tmp_path, task=CountingTask("counting-2")).start()


async def test_nothing_works_before_the_start(tmp_path: Path) -> None:
    gym = _make(tmp_path)
    with pytest.raises(GymError, match="not started"):
        await gym.step(Action(name="think", arguments={"thought": "x"}))
    await gym.close()


async def test_a_broken_shell_is_the_environments_fault(tmp_path: Path) -> None:
    gym = _make(tmp_path, GymConfig(shell="/no/such/bash"))
    await gym.start()
    with pytest.raises(GymError, match="cannot start the shell /no/such/bash"):
        await _shell(gym, "true")
    await gym.close()


@pytest.mark.parametrize(
    ("name", "repeatable"),
    [("think", True), ("eval", True), ("finish", True), ("run_command", False), ("edit_file", False), ("fly", False)],
)
def test_repeatable_actions(name: str, repeatable: bool) -> None:
    assert _make(Path("/nowhere")).is_repeatable(Action(name=name)) is repeatable


async def test_minilab_in_the_gym(tmp_path: Path) -> None:
    task = MiniLab(TaskConfig(seconds_per_run=0.01), 0)
    gym = Gym(task, tmp_path / "workspace", tmp_path / "task.json", CONFIG)
    description = await gym.start()
    try:
        files = (await _do(gym, "list_files")).text
        unset = await _shell(gym, "python experiment.py")
        for line, (knob, options) in enumerate(KNOBS.items(), start=1):
            await _do(gym, "edit_file", path="recipe.yaml", start=line, end=line, content=f"{knob}: {options[0]}")
        run = await _shell(gym, "python experiment.py")
        evaluation = await _do(gym, "eval")
    finally:
        await gym.close()

    assert description
    assert "recipe.yaml" in files.split("\n")
    assert (unset.is_error, unset.text.split("\n")[-1]) == (True, "[exit 2]")
    assert run.text.startswith("stage 1 metric ")
    assert run.text.endswith("[exit 0]")
    assert run.progress is not None
    assert evaluation.text.startswith("score ")
    assert evaluation.text.endswith("; 2 evaluations left")
