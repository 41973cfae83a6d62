from __future__ import annotations

from pathlib import Path

import pytest

from hpc.rundir import RunDir
from hpc.serving import registry
from hpc.serving.overview import Scheduled, judge, server_rows
from hpc.serving.registry import Endpoint, ServerState, StateName

NOW = 1000.0


def said(state: StateName, reason: str = "") -> ServerState:
    return ServerState(state=state, reason=reason, at=NOW)


def published(heartbeat: float = NOW, **fields: str) -> Endpoint:
    return Endpoint(server="s", replica=0, url="http://h/v1", model="m", heartbeat=heartbeat, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "endpoint", "job", "expected"),
    [
        (None, None, None, ("PENDING", "its job has not started")),
        (None, None, ("PENDING", "Priority"), ("PENDING", "Priority")),
        (None, None, ("RUNNING", ""), ("LAUNCHING", "")),
        (None, None, ("NODE_FAIL", ""), ("FAILED", "its job ended before it could start: node_fail")),
        (said("LAUNCHING"), None, ("RUNNING", ""), ("LAUNCHING", "")),
        (said("READY"), published(), ("RUNNING", ""), ("READY", "")),
        (said("READY"), published(), ("UNKNOWN", "squeue does not answer"), ("READY", "")),
        (said("READY"), published(NOW - 100), None, ("FAILED", "no heartbeat for more than 30 s")),
        (said("READY"), published(NOW - 100), ("TIMEOUT", ""), ("FAILED", "its job was ended: timeout")),
        (said("DEGRADED", "hangs"), None, ("RUNNING", ""), ("DEGRADED", "hangs")),
        (said("SHUTDOWN", "draining: preempt"), published(state="DRAINING"), None, ("DRAINING", "preempt")),
        (said("SHUTDOWN", "preempt"), None, ("REQUEUED", "BeginTime"), ("PENDING", "BeginTime")),
        (said("SHUTDOWN", "the run is over"), None, ("DONE", ""), ("SHUTDOWN", "the run is over")),
        (said("FAILED", "no such model"), None, ("FAILED", "exit 1"), ("FAILED", "no such model")),
    ],
)
def test_the_state_is_what_the_evidence_says(
    state: ServerState | None, endpoint: Endpoint | None, job: tuple[str, str] | None, expected: tuple[str, str]
) -> None:
    assert judge(state, endpoint, Scheduled(*job) if job else None, NOW) == expected


def make(folder: Path, server: dict[str, object]) -> RunDir:
    config = {"server": server, "model": {"name": "m"}}
    return RunDir.create(folder, manifest={}, config=config, config_hash="0")


def test_every_replica_has_a_row_and_only_live_ones_an_address(tmp_path: Path) -> None:
    run = make(tmp_path / "r", {"kind": "vllm", "name": "s", "replicas": 2})
    registry.publish(run, published())
    registry.write_state(run, "s", 0, said("READY"))
    rows = server_rows(run, {1: Scheduled("PENDING", "Resources", "7_1")}, now=NOW)
    assert [(row.replica, row.state, row.reason, row.url, row.job_id) for row in rows] == [
        (0, "READY", "", "http://h/v1", ""),
        (1, "PENDING", "Resources", "", "7_1"),
    ]


def test_an_external_server_has_no_rows(tmp_path: Path) -> None:
    assert server_rows(make(tmp_path / "r", {"kind": "external", "name": "s", "replicas": 1})) == []
