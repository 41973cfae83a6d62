from __future__ import annotations

from pathlib import Path

from hpc.rundir import RunDir
from hpc.serving import registry
from hpc.serving.registry import STALE_AFTER, Endpoint, Registry, ServerState


def endpoint(replica: int, heartbeat: float, **fields: object) -> Endpoint:
    return Endpoint(
        server="s",
        replica=replica,
        url=f"http://h:{replica}/v1",
        model="m",
        heartbeat=heartbeat,
        **fields,  # type: ignore[arg-type]
    )


def test_published_endpoints_are_listed_by_replica_and_withdrawn(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for replica in (10, 2, 0):
        registry.publish(run, endpoint(replica, 1000.0))
    assert [one.replica for one in registry.live_endpoints(run, "s", now=1001.0)] == [0, 2, 10]
    registry.withdraw(run, "s", 2)
    registry.withdraw(run, "s", 2)
    assert [one.replica for one in registry.live_endpoints(run, "s", now=1001.0)] == [0, 10]
    assert registry.live_endpoints(run, "other", now=1001.0) == []


def test_an_endpoint_without_heartbeat_goes_stale(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    registry.publish(run, endpoint(0, 1000.0))
    assert registry.live_endpoints(run, "s", now=1000.0 + STALE_AFTER)
    assert not registry.live_endpoints(run, "s", now=1000.1 + STALE_AFTER)


def test_rubbish_and_half_written_files_are_not_endpoints(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    registry.publish(run, endpoint(0, 1000.0))
    (run.endpoints("s") / "1.json").write_text("{not json")
    (run.endpoints("s") / "2.json").write_text('{"server": "s"}')
    (run.endpoints("s") / ".3.json.tmp").write_text("{}")
    assert [one.replica for one in registry.read_endpoints(run, "s")] == [0]


def test_a_registry_sees_changes_and_staleness_between_reads(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    now = [1000.0]
    listed = Registry(run, "s", clock=lambda: now[0])
    assert listed() == []
    registry.publish(run, endpoint(0, 1000.0))
    now[0] = 1000.6
    assert [one.replica for one in listed()] == [0]
    now[0] = 1000.0 + STALE_AFTER + 1
    assert listed() == []


def test_failure_speaks_only_when_no_replica_can_be_hoped_for(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert registry.failure(run, "s") == ""
    registry.write_state(run, "s", 0, ServerState(state="FAILED", reason="no such model"))
    registry.write_state(run, "s", 1, ServerState(state="LAUNCHING"))
    assert registry.failure(run, "s") == ""
    registry.write_state(run, "s", 1, ServerState(state="SHUTDOWN"))
    assert registry.failure(run, "s") == "replica 0: no such model"
    registry.forget(run, "s")
    assert registry.failure(run, "s") == ""
    assert registry.read_states(run, "s") == {}
