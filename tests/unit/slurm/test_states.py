"""States merged from what squeue, sacct and the elements themselves say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hpc import slurm
from hpc.core.errors import HpcError
from hpc.rundir import RunDir
from hpc.slurm.elements import LIVE, Outcome, write_outcome
from hpc.slurm.facts import ClusterFacts, parse_config, parse_partitions
from hpc.slurm.states import Row, merge, parse_sacct, parse_squeue

SQUEUE = """\
24|N/A|CANCELLED|JobArrayTaskLimit|
24|0|RUNNING|None|node0
24|1|PENDING|JobArrayTaskLimit|
25|0|PENDING|DependencyNeverSatisfied|
26|3|COMPLETING|None|node[1-2]
slurm_load_jobs rubbish
"""

SACCT = """\
24_0|COMPLETED|None|node0
24_[5-7,9%2]|PENDING|Priority|None assigned
24_2|CANCELLED by 1000|None|node1
24_3|NODE_FAIL|None|node2
24_0.batch|COMPLETED||node0
31|FAILED|NonZeroExitCode|node3
"""


def outcome(state: str, **more: object) -> Outcome:
    return Outcome(state=state, job_id="24_0", **{"attempt": 1, **more})  # type: ignore[arg-type]


def test_squeue_is_read() -> None:
    assert parse_squeue(SQUEUE) == {
        "24": Row("CANCELLED", "JobArrayTaskLimit", ""),
        "24_0": Row("RUNNING", "", "node0"),
        "24_1": Row("PENDING", "JobArrayTaskLimit", ""),
        "25_0": Row("PENDING", "DependencyNeverSatisfied", ""),
        "26_3": Row("COMPLETING", "", "node[1-2]"),
    }


def test_sacct_is_read() -> None:
    waiting = Row("PENDING", "Priority", "")
    assert parse_sacct(SACCT) == {
        "24_0": Row("COMPLETED", "", "node0"),
        "24_5": waiting,
        "24_6": waiting,
        "24_7": waiting,
        "24_9": waiting,
        "24_2": Row("CANCELLED", "by user 1000", "node1"),
        "24_3": Row("NODE_FAIL", "", "node2"),
    }


@pytest.mark.parametrize(
    ("row", "own", "state", "gone"),
    [
        (Row("PENDING", "Resources"), None, "PENDING", False),
        (Row("PENDING", "DependencyNeverSatisfied"), None, "BLOCKED", False),
        (Row("PENDING", "BeginTime"), outcome("running"), "REQUEUED", False),
        (Row("PENDING", "BeginTime"), outcome("requeued"), "REQUEUED", False),
        (Row("RUNNING"), outcome("running"), "RUNNING", False),
        (Row("CONFIGURING"), None, "RUNNING", False),
        (Row("COMPLETING"), outcome("done"), "RUNNING", False),
        (Row("COMPLETING"), outcome("requeued"), "REQUEUED", False),
        (Row("REQUEUE_HOLD"), None, "REQUEUED", False),
        (Row("COMPLETED"), outcome("done"), "DONE", True),
        (Row("COMPLETED"), None, "DONE", True),
        (Row("FAILED"), outcome("failed"), "FAILED", True),
        (Row("FAILED"), outcome("running"), "FAILED", True),
        (Row("FAILED"), outcome("done"), "DONE", True),  # a packed neighbour failed
        (Row("TIMEOUT"), outcome("running"), "TIMEOUT", True),
        (Row("TIMEOUT"), outcome("done"), "DONE", True),
        (Row("TIMEOUT"), outcome("failed"), "TIMEOUT", True),
        (Row("CANCELLED"), outcome("running"), "CANCELLED", True),
        (Row("PREEMPTED"), outcome("running"), "PREEMPTED", True),
        (Row("NODE_FAIL"), outcome("running"), "NODE_FAIL", True),
        (Row("OUT_OF_MEMORY"), outcome("running"), "FAILED", True),
        (None, outcome("done"), "DONE", True),
        (None, outcome("failed"), "FAILED", True),
        (None, outcome("cancelled"), "CANCELLED", True),
        (None, outcome("running"), "UNKNOWN", True),
        (None, None, "UNKNOWN", True),
    ],
)
def test_one_word_for_what_is_known(row: Row | None, own: Outcome | None, state: str, gone: bool) -> None:
    element = merge("job", 0, "24_0", row, own)
    assert (element.state, element.gone) == (state, gone)
    assert not (element.gone and element.state in LIVE)


def test_reasons() -> None:
    failed = merge("job", 0, "24_0", Row("FAILED", "NonZeroExitCode", "n1"), outcome("failed", error="boom", exit=3))
    assert (failed.reason, failed.exit, failed.host, failed.attempt) == ("boom", 3, "n1", 1)
    assert merge("job", 0, "24_0", Row("OUT_OF_MEMORY"), None).reason == "out of memory"
    assert "keeps no accounts" in merge("job", 0, "24_0", None, None).reason


def test_silence_is_never_failure() -> None:
    silent = merge("job", 0, "24_0", None, outcome("running"), silence="squeue does not answer: x")
    assert (silent.state, silent.gone, silent.reason) == ("UNKNOWN", False, "squeue does not answer: x")
    assert merge("job", 0, "24_0", None, None, silence="x", cancelled=True).state == "UNKNOWN"
    assert merge("job", 0, "24_0", None, None, cancelled=True).state == "CANCELLED"


def test_what_is_certainly_over_and_what_nobody_knows() -> None:
    silent = merge("job", 0, "24_0", None, outcome("running"), silence="squeue does not answer: x")
    forgotten = merge("job", 1, "24_1", None, None)
    blocked = merge("job", 2, "24_2", Row("PENDING", "DependencyNeverSatisfied"), None)
    told = merge("job", 0, "24_0", None, outcome("failed"), silence="squeue does not answer: x")
    running = merge("job", 0, "24_0", Row("RUNNING"), outcome("running"))

    assert [slurm.is_settled(element) for element in (silent, forgotten, blocked, told, running)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert slurm.unsure([silent, forgotten, blocked, told, running]) == [silent]


class Programs:
    """Stands in for Slurm's programs: what they say, and how often each was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, accounting: bool) -> None:
        import subprocess

        self.said: dict[str, tuple[int, str, str]] = {}
        self.asked: list[tuple[str, ...]] = []

        def call(*argv: str, **_: object) -> subprocess.CompletedProcess[str]:
            self.asked.append(argv)
            return subprocess.CompletedProcess(argv, *self.said[argv[0]])

        module = sys.modules["hpc.slurm.states"]
        monkeypatch.setattr(module, "call", call)
        monkeypatch.setattr(module, "limits", lambda: ClusterFacts(available=True, accounting=accounting))
        monkeypatch.setattr(module, "_asked", {})


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Two submissions: 24 with four elements, then its element 2 again as 30."""
    here = RunDir(tmp_path / "run")
    chunks = [{"id": "24", "offset": 0, "tasks": "0-3"}], [{"id": "30", "offset": 0, "tasks": "2"}]
    submissions = [{"backend": "slurm", "at": 1e9 + at, "chunks": chunk} for at, chunk in enumerate(chunks)]
    here.root.mkdir()
    here.jobs.write_text(
        json.dumps({"version": 1, "jobs": {"a": {"kind": "x", "elements": 4, "submissions": submissions}}})
    )
    return here


def test_one_question_for_all_and_sacct_only_for_what_is_missing(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(monkeypatch, accounting=True)
    programs.said["squeue"] = (0, "24|0|RUNNING|None|n0\n24|2|FAILED|None|n0\n30|2|PENDING|Priority|\n", "")
    programs.said["sacct"] = (0, "24_1|TIMEOUT|None|n1\n", "")
    write_outcome(run, "a", 2, Outcome(state="failed", job_id="24_2", error="old"))
    write_outcome(run, "a", 3, Outcome(state="done", job_id="24_3"))

    states = slurm.states(run)
    assert [(e.index, e.state, e.job_id) for e in states] == [
        (0, "RUNNING", "24_0"),
        (1, "TIMEOUT", "24_1"),
        (2, "PENDING", "30_2"),  # the outcome of the older submission does not count
        (3, "DONE", "24_3"),
    ]
    assert [argv[0] for argv in programs.asked] == ["squeue", "sacct"]
    assert "--jobs=24,30" in programs.asked[0]
    assert any(word.startswith("--starttime=2001-09-0") for word in programs.asked[1])
    slurm.states(run)
    assert [argv[0] for argv in programs.asked] == ["squeue", "sacct", "squeue"]  # accounts are asked rarely


def test_without_accounts_sacct_is_not_asked(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(monkeypatch, accounting=False)
    programs.said["squeue"] = (1, "", "slurm_load_jobs error: Invalid job id specified\n")
    states = slurm.states(run)
    assert {(e.state, e.gone) for e in states} == {("UNKNOWN", True)}
    assert [argv[0] for argv in programs.asked] == ["squeue"]


def test_a_silent_controller(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(monkeypatch, accounting=True)
    programs.said["squeue"] = (1, "", "squeue: error: Unable to contact slurm controller (connect failure)\n")
    states = slurm.states(run)
    assert {(e.state, e.gone) for e in states} == {("UNKNOWN", False)}
    assert states[0].reason == "squeue does not answer: Unable to contact slurm controller (connect failure)"
    assert [argv[0] for argv in programs.asked] == ["squeue"]


def test_no_submission_no_elements(tmp_path: Path) -> None:
    assert slurm.states(RunDir(tmp_path)) == []
    assert not slurm.is_recorded(RunDir(tmp_path), "a")


def test_a_damaged_record_is_an_error_with_its_name(run: RunDir) -> None:
    run.jobs.write_text('{"version": 1, "jobs": ')
    with pytest.raises(HpcError, match=r"jobs\.json is damaged"):
        slurm.states(run)


def test_a_damaged_outcome_is_no_outcome(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(monkeypatch, accounting=False)
    programs.said["squeue"] = (0, "24|0|RUNNING|None|n0\n", "")
    run.element_result("a", 0).parent.mkdir(parents=True)
    run.element_result("a", 0).write_bytes(b"\x00\x01")
    assert slurm.states(run)[0].state == "RUNNING"


def test_facts_are_read() -> None:
    config = parse_config(
        "Configuration data as of 2026\nMaxArraySize            = 10001\nSLURM_VERSION           = 22.05.8\n"
        "SlurmctldParameters     = (null)\n"
    )
    assert config == {"MaxArraySize": "10001", "SLURM_VERSION": "22.05.8", "SlurmctldParameters": "(null)"}
    line = (
        "PartitionName=low AllowGroups=ALL Default=NO GraceTime=20 MaxTime=UNLIMITED PreemptMode=REQUEUE State=UP "
        "TotalCPUs=32 TotalNodes=4 SelectTypeParameters=NONE"
    )
    (partition,) = parse_partitions(line + "\n\n")
    assert (partition.name, partition.nodes, partition.grace_seconds, partition.default) == ("low", 4, 20, False)
