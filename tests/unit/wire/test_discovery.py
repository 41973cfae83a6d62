from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hpc.rundir import RunDir
from hpc.wire import discovery
from hpc.wire.discovery import STALE_SECONDS, RouterInfo

INFO = RouterInfo(
    address="tcp://127.0.0.1:1",
    inbox_address="tcp://127.0.0.1:2",
    public_key="k" * 40,
    generation=3,
    heartbeat=1000.0,
    host="127.0.0.1",
    pid=1,
    job_id="",
    annotators="console",
)


def test_what_is_published_is_read(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert discovery.read(run) is None
    discovery.publish(run, INFO)
    assert discovery.read(run) == INFO


def test_a_heartbeat_grows_stale() -> None:
    assert not INFO.is_stale(now=1000.0 + STALE_SECONDS)
    assert INFO.is_stale(now=1000.1 + STALE_SECONDS)
    assert INFO.is_stale()


@pytest.mark.parametrize("content", ["", "{", "{}", '{"address": 5}', "\udcff"])
def test_a_file_that_makes_no_sense_is_no_router(tmp_path: Path, content: str) -> None:
    run = RunDir(tmp_path)
    run.router.write_bytes(content.encode(errors="surrogateescape"))
    assert discovery.read(run) is None


def test_a_router_withdraws_only_its_own_entry(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    discovery.withdraw(run, 3)
    discovery.publish(run, INFO)
    discovery.withdraw(run, 2)
    assert discovery.read(run) == INFO
    discovery.publish(run, msgspec.structs.replace(INFO, generation=4))
    discovery.withdraw(run, 4)
    assert not run.router.exists()
