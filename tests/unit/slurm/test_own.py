"""What a running element makes of signals, variables and Slurm's words."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from hpc.core.errors import JobError
from hpc.slurm import Allocation, Dependency, ElementState
from hpc.slurm.allocation import StopReason
from hpc.slurm.commands import call, clean_environment, complaint
from hpc.slurm.dependencies import judge
from hpc.slurm.own import JobView, identity, judge_signal, parse_job, requeue
from hpc.slurm.signals import StopWatcher

LINE = (
    "JobId=13 ArrayJobId=12 ArrayTaskId=4 JobName=x UserId=root(0) JobState={state} Reason={reason} Dependency=(null) "
    "Requeue=1 Restarts={restarts} BatchFlag=1 TimeLimit=00:10:00 EndTime=2026-11-21T07:44:16 "
    "PreemptEligibleTime=2026-11-21T07:44:06 PreemptTime={preempt} Command=(null)\n"
)


def view(state: str = "RUNNING", reason: str = "None", restarts: int = 0, preempt: str = "None") -> JobView:
    found = parse_job(LINE.format(state=state, reason=reason, restarts=restarts, preempt=preempt))
    assert found is not None
    return found


def test_a_job_is_read() -> None:
    seen = view(preempt="2026-11-21T07:44:08")
    assert (seen.state, seen.restarts, seen.preempted) == ("RUNNING", 0, True)
    assert seen.end_time == time.mktime((2026, 11, 21, 7, 44, 16, 0, 0, -1))
    assert parse_job("slurm_load_jobs error: Invalid job id specified") is None
    unlimited = parse_job("JobId=1 JobState=RUNNING EndTime=Unknown")
    assert unlimited is not None
    assert unlimited.end_time is None


PREEMPTED_AT = "2026-11-21T07:44:08"


@pytest.mark.parametrize(
    ("number", "seen", "left", "reason"),
    [
        # as a real Slurm was seen to do
        (signal.SIGUSR2, view(preempt=PREEMPTED_AT), 500, "preempt"),  # beginning of the grace time
        (signal.SIGUSR2, view("SIGNALING", preempt=PREEMPTED_AT), 30, "preempt"),  # ... however near the end
        (signal.SIGUSR2, view(), 100, "walltime"),  # up to a minute early
        (signal.SIGUSR2, view(), 5000, "preempt"),
        (signal.SIGUSR2, None, 100, "walltime"),
        (signal.SIGTERM, view("COMPLETING", restarts=1), 5000, "preempt"),  # requeued already, by whomever
        (signal.SIGTERM, view("COMPLETING", "TimeLimit"), 0, "walltime"),
        (signal.SIGTERM, view("COMPLETING"), 5000, "cancel"),
        (signal.SIGTERM, view("CANCELLED"), 5000, "cancel"),
        (signal.SIGTERM, view(preempt=PREEMPTED_AT), 5000, "preempt"),  # a step at the beginning of the grace time
        (signal.SIGTERM, view(), 5000, "preempt"),  # the node shuts down
        (signal.SIGTERM, None, 5000, "preempt"),
    ],
)
def test_why_a_signal_came(number: int, seen: JobView | None, left: float, reason: str) -> None:
    judged = judge_signal(number, seen, restarts=0, end_time=1000.0 + left, signal_seconds=60, now=1000.0)
    assert judged == reason


@pytest.fixture
def slurm_says(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, str, str]]:
    """What scontrol answers to ``show`` and ``requeue``; what it was asked is under ``asked``."""
    said: dict[str, tuple[int, str, str]] = {"requeue": (0, "", "")}

    def fake(*argv: str, **_: object) -> subprocess.CompletedProcess[str]:
        verb = "show" if "show" in argv else argv[1]
        said["asked " + verb] = (0, "", "")
        return subprocess.CompletedProcess(argv, *said[verb])

    monkeypatch.setattr(sys.modules["hpc.slurm.own"], "call", fake)
    return said


@pytest.mark.parametrize(
    ("seen", "again", "asked"),
    [
        ({"state": "RUNNING"}, True, True),
        ({"state": "SIGNALING", "preempt": PREEMPTED_AT}, True, True),
        ({"state": "COMPLETING", "restarts": 1}, True, False),  # Slurm has done so itself
        ({"state": "COMPLETING"}, False, False),  # cancelled: it would come back to life
        ({"state": "COMPLETING", "reason": "TimeLimit"}, True, True),
    ],
)
def test_requeue(seen: dict[str, str], again: bool, asked: bool, slurm_says: dict[str, tuple[int, str, str]]) -> None:
    fields = {"reason": "None", "restarts": 0, "preempt": "None", **seen}
    slurm_says["show"] = (0, LINE.format(**fields), "")
    assert requeue("12_4", 0) is again
    assert ("asked requeue" in slurm_says) is asked


def test_a_refused_requeue_is_an_error_with_slurms_words(slurm_says: dict[str, tuple[int, str, str]]) -> None:
    slurm_says["show"] = (1, "", "")
    slurm_says["requeue"] = (1, "", "slurm_requeue error: Requested operation is presently disabled for job 12_4\n")
    with pytest.raises(JobError, match="presently disabled"):
        requeue("12_4", 0)


def test_identity() -> None:
    me = identity({"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "4", "SLURM_PROCID": "2"})
    assert me is not None
    assert (me.job_id, me.task, me.restarts, me.rank) == ("12_4", 4, 0, 2)
    again = identity({"SLURM_JOB_ID": "13", "SLURM_RESTART_COUNT": "3"})
    assert again is not None
    assert (again.job_id, again.restarts) == ("13_0", 3)
    assert identity({}) is None


def test_the_environment_is_cleaned() -> None:
    environment = {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOB_ID": "1",
        "SLURM_CLUSTERS": "other",
        "SBATCH_PARTITION": "x",
        "SRUN_DEBUG": "1",
        "SQUEUE_FORMAT": "%i",
        "SUBMITIT_EXECUTOR": "local",
        "PMI_RANK": "0",
        "CUDA_VISIBLE_DEVICES": "3",
        "SLACK_BOT_TOKEN": "xoxb",
        "SLURMISH": "kept",
    }
    assert clean_environment(environment, ["SLACK_BOT_TOKEN"]) == {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURMISH": "kept",
    }
    # outside an allocation the user's own choice of GPUs stays
    assert clean_environment({"CUDA_VISIBLE_DEVICES": "3"}) == {"CUDA_VISIBLE_DEVICES": "3"}


def test_a_program_that_fails_in_any_way_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    assert call("no-such-program-at-all").returncode == 127
    late = call("sleep", "30", timeout=0.05)
    assert (late.returncode, complaint(late)) == (124, "sleep did not answer within 0.05 s")
    monkeypatch.setenv("SLURM_CONF", "/nonexistent/slurm.conf")
    assert "SLURM_CONF names /nonexistent/slurm.conf" in complaint(call("true"))
    words = "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: no\n"
    assert complaint(subprocess.CompletedProcess(["sbatch"], 1, "", words)) == (
        "invalid partition specified: x; Batch job submission failed: no"
    )


# ---- the allocation


def test_a_stop_is_told_once_to_all_and_the_first_reason_stays() -> None:
    allocation = Allocation(job_id="1_0")
    told: list[tuple[str, str]] = []
    allocation.on_stop(lambda reason: told.append(("early", reason)))
    assert allocation.stop_reason is None
    threads = [threading.Thread(target=allocation.stop, args=[reason]) for reason in ("preempt", "cancel")]
    for thread in threads:
        thread.start()
        thread.join()
    allocation.on_stop(lambda reason: told.append(("late", reason)))
    assert allocation.stop_reason == "preempt"
    assert told == [("early", "preempt"), ("late", "preempt")]


async def test_waiting_for_a_stop_from_another_thread() -> None:
    allocation = Allocation(job_id="1_0")
    waiting = asyncio.create_task(allocation.wait_stop())
    await asyncio.sleep(0)
    threading.Thread(target=allocation.stop, args=["walltime"]).start()
    assert await waiting == "walltime"
    assert await allocation.wait_stop() == "walltime"


def test_a_stop_after_the_loop_has_ended_is_no_error() -> None:
    allocation = Allocation(job_id="1_0")

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(allocation.wait_stop(), 0.01)

    asyncio.run(give_up())
    allocation.stop("cancel")


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[int, object], None]]:
    """Signal handlers as they are installed, without installing them."""
    installed: dict[int, Callable[[int, object], None]] = {}
    monkeypatch.setattr(signal, "signal", lambda number, handler: installed.update({number: handler}))
    return installed


def stopped(allocation: Allocation) -> str | None:
    told = threading.Event()
    allocation.on_stop(lambda _reason: told.set())
    assert told.wait(30)
    return allocation.stop_reason


def test_a_signal_is_judged_outside_the_handler(handlers: dict[int, Callable[[int, object], None]]) -> None:
    allocation = Allocation(job_id="1_0")
    judged_in: list[str] = []

    def judge(number: int) -> StopReason:
        judged_in.append(threading.current_thread().name)
        return "cancel" if number == signal.SIGTERM else "preempt"

    with StopWatcher(allocation, judge=judge, signal_seconds=1):
        assert set(handlers) == {signal.SIGUSR2, signal.SIGTERM}
        handlers[signal.SIGTERM](signal.SIGTERM, None)
        assert stopped(allocation) == "cancel"
    assert judged_in == ["stop-watcher"]


def test_the_clock_stops_ahead_of_the_walltime(handlers: dict[int, Callable[[int, object], None]]) -> None:
    allocation = Allocation(job_id="1_0", end_time=time.time() + 100)
    with StopWatcher(allocation, judge=lambda _number: "cancel", signal_seconds=100):
        assert stopped(allocation) == "walltime"


def test_a_walltime_that_was_extended_is_believed(handlers: dict[int, Callable[[int, object], None]]) -> None:
    allocation = Allocation(job_id="1_0", end_time=time.time())
    asked = threading.Event()
    later = time.time() + 1000

    def moved() -> float:
        asked.set()
        return later

    with StopWatcher(allocation, judge=lambda _number: "preempt", signal_seconds=10, end_time=moved):
        assert asked.wait(30)
        handlers[signal.SIGUSR2](signal.SIGUSR2, None)
        assert stopped(allocation) == "preempt"  # not walltime
    assert allocation.end_time == later


def test_a_second_signal_does_not_change_how_the_process_ends() -> None:
    """Slurm and the pool both signal an element; the later signal finds an interpreter that is ending."""
    program = (
        "import atexit, os, signal, sys\n"
        "from hpc.slurm.allocation import Allocation\n"
        "from hpc.slurm.signals import SIGNALS, StopWatcher\n"
        "class Last:\n"
        "    def __del__(self, kill=os.kill, me=os.getpid(), numbers=tuple(map(int, SIGNALS))):\n"
        "        for number in numbers:\n"
        "            kill(me, number)\n"
        "sys.last = Last()  # dies with the interpreter, when Python's own handlers are gone\n"
        "with StopWatcher(Allocation(job_id='1_0'), judge=lambda n: 'preempt', signal_seconds=1):\n"
        "    pass\n"
        "sys.exit(75)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 75


# ---- dependencies


def elements(*states: str) -> list[ElementState]:
    live = {"PENDING", "RUNNING", "REQUEUED"}
    return [
        ElementState(job="a", index=index, state=state, gone=state not in live)  # type: ignore[arg-type]
        for index, state in enumerate(states)
    ]


@pytest.mark.parametrize(
    ("kind", "states", "verdict"),
    [
        ("afterok", ("DONE", "DONE"), "met"),
        ("afterok", ("DONE", "RUNNING"), "waiting"),
        ("afterok", ("FAILED", "RUNNING"), "never"),
        ("afterok", ("CANCELLED",), "never"),
        ("afterany", ("FAILED", "DONE"), "met"),
        ("afterany", ("FAILED", "REQUEUED"), "waiting"),
        ("afternotok", ("FAILED", "DONE"), "met"),
        ("afternotok", ("FAILED", "RUNNING"), "waiting"),
        ("afternotok", ("DONE",), "never"),
        ("after", ("RUNNING", "PENDING"), "waiting"),
        ("after", ("RUNNING", "DONE"), "met"),
        ("afterany", (), "never"),
    ],
)
def test_dependencies(kind: str, states: tuple[str, ...], verdict: str) -> None:
    assert judge(kind, elements(*states)) == verdict
    assert Dependency("a").kind == "afterok"


def test_a_failure_is_known_before_the_process_that_ran_it_has_left() -> None:
    failed = ElementState(job="a", index=0, state="FAILED", gone=False)  # its neighbours share the process
    running = ElementState(job="a", index=1, state="RUNNING")
    unknown = ElementState(job="a", index=1, state="UNKNOWN")
    assert judge("afterok", [failed, running]) == "never"
    assert judge("afterany", [failed]) == "waiting"  # it may still write its last lines
    assert judge("afterok", [unknown]) == "waiting"
