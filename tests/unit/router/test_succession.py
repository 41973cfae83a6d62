"""Who may serve, and what a successor finds: what was acknowledged, whoever was paused for however long."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import multiprocessing
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpc.core import processes
from hpc.core.errors import HpcError, RouterSuperseded
from hpc.router import succession
from hpc.router.journal import JournalDesk
from hpc.router.state import Joined, Raised
from hpc.router.succession import Tenure, begin, wait_turn
from hpc.rundir import RunDir
from hpc.wire import discovery
from hpc.wire.messages import Alert, Hello


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def lockless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system on which two machines can both have a lock."""
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None)


def info(generation: int, *, process: str = "", heartbeat: float = 0.0) -> discovery.RouterInfo:
    return discovery.RouterInfo(
        address="tcp://h:1",
        inbox_address="tcp://h:2",
        public_key="k" * 40,
        generation=generation,
        heartbeat=heartbeat,
        host="h",
        pid=1,
        job_id="17_0",
        annotators="none",
        process=process,
    )


def serve(tenure: Tenure) -> JournalDesk:
    return JournalDesk(tenure.journal, verify=tenure.check)


def alert(number: int) -> Raised:
    return Raised(
        Alert(
            id=f"r-00000-a{number}",
            sent_at=1.0,
            episode="r-00000",
            epoch=1,
            detector=f"d{number}",
            score=0.5,
            step=number,
            reason="x" * 5000,
        ),
        1.0,
    )


HELLO = Joined(Hello(id="h", sent_at=1.0, run="r", episode="r-00000", epoch=1, token="t"), 1.0)


def alerts_in(desk: JournalDesk) -> list[int]:
    return [card.step for card in desk.alerts(open_only=False)]


def files_of(run: RunDir) -> list[str]:
    return sorted(path.name for path in run.router_dir.iterdir())


def test_each_start_is_a_new_generation_with_the_whole_journal(run: RunDir) -> None:
    for number in range(1, 4):
        tenure = begin(run)
        assert tenure.generation == number
        desk = serve(tenure)
        desk.record([HELLO, alert(number)])
        assert alerts_in(desk) == list(range(1, number + 1))
        desk.close()
        tenure.end()
    assert files_of(run) == ["generation-000003", "journal-000003.sqlite3", "lock"]


def test_one_at_a_time(run: RunDir) -> None:
    tenure = begin(run)
    with pytest.raises(HpcError, match="another router is serving this run") as error:
        begin(run)
    assert "--standby" in error.value.hint
    tenure.check()
    tenure.end()
    begin(run).end()


def test_the_journal_of_a_router_that_was_killed_is_inherited_with_its_log(run: RunDir) -> None:
    """What lies in the write-ahead log alone counts as well."""
    context = multiprocessing.get_context("fork")

    def serve_and_die() -> None:
        desk = serve(begin(run))
        desk.record([HELLO, alert(1), alert(2)])
        multiprocessing.current_process().kill()  # type: ignore[attr-defined]

    child = context.Process(target=serve_and_die)
    child.start()
    child.join(30)
    assert (run.router_dir / "journal-000001.sqlite3-wal").stat().st_size > 0
    tenure = begin(run)
    with contextlib.closing(serve(tenure)) as desk:
        assert alerts_in(desk) == [1, 2]
    tenure.end()


def test_a_journal_from_before_there_were_generations_is_inherited(run: RunDir) -> None:
    with contextlib.closing(JournalDesk(run.router_dir / "journal.sqlite3")) as old:
        old.record([HELLO, alert(1)])
    tenure = begin(run)
    with contextlib.closing(serve(tenure)) as desk:
        assert alerts_in(desk) == [1]
    tenure.end()
    assert files_of(run) == ["generation-000001", "journal-000001.sqlite3", "lock"]


@pytest.mark.usefixtures("lockless")
def test_the_fenced_never_acknowledge_and_nothing_acknowledged_is_missing(run: RunDir) -> None:
    first = serve(begin(run))
    first.record([HELLO, alert(1)])
    second = serve(begin(run))
    with pytest.raises(RouterSuperseded):
        first.record([alert(2)])
    with pytest.raises(RouterSuperseded):
        first.take_reply(key="k", episode="r-00000", alert=None, annotator="a", text="t", sent_at=1.0)
    first.close()
    assert alerts_in(second) == [1]
    second.record([alert(3)])
    third = serve(begin(run))
    assert alerts_in(third) == [1, 3]
    second.close()
    third.close()
    assert files_of(run) == ["generation-000003", "journal-000003.sqlite3", "lock"]


@pytest.mark.usefixtures("lockless")
def test_successors_at_every_moment_of_a_busy_router(run: RunDir) -> None:
    """A router commits without pause in a thread of its own; whatever it could acknowledge before it
    was superseded is in its successor's journal."""
    acknowledged: list[int] = []
    numbers = iter(range(10_000))

    async def work(desk: JournalDesk) -> None:
        with pytest.raises(RouterSuperseded):
            while True:
                number = next(numbers)
                desk.record([HELLO, alert(number)])
                acknowledged.append(number)

    def work_in_thread(tenure: Tenure) -> None:
        desk = serve(tenure)
        asyncio.run(work(desk))
        desk.close()

    tenure = begin(run)
    for _ in range(12):
        worker = threading.Thread(target=work_in_thread, args=(tenure,))
        worker.start()
        before = len(acknowledged)
        deadline = time.monotonic() + 60
        while len(acknowledged) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        tenure = begin(run)
        worker.join(60)
        assert not worker.is_alive()
    with contextlib.closing(serve(tenure)) as desk:
        assert set(acknowledged) <= set(alerts_in(desk))
    assert len(acknowledged) >= 36


def test_of_two_that_begin_at_once_one_is_refused(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None)
    begin(run)
    numbered = succession._numbered
    rival: list[Tenure] = []

    def late(folder: Path, pattern: Any) -> dict[int, Path]:
        found = numbered(folder, pattern)
        if not rival:
            rival.append(None)  # type: ignore[arg-type]
            rival[0] = begin(run)
        return found

    monkeypatch.setattr(succession, "_numbered", late)
    with pytest.raises(HpcError, match="another router is serving this run"):
        begin(run)
    rival[0].check()


def test_a_journal_that_cannot_be_read_is_left_alone(run: RunDir) -> None:
    run.router_dir.mkdir(parents=True)
    damaged = run.router_dir / "journal-000001.sqlite3"
    damaged.write_bytes(b"not a database " * 1000)
    with pytest.raises(HpcError, match="cannot be taken over"):
        begin(run)
    assert damaged.read_bytes() == b"not a database " * 1000


def test_a_removed_run_directory_ends_the_router(run: RunDir) -> None:
    tenure = begin(run)
    for path in run.router_dir.iterdir():
        path.unlink()
    with pytest.raises(RouterSuperseded):
        tenure.check()


# ---- who is thought to be alive


@pytest.fixture
def child() -> Iterator[str]:
    """Identity of a process that lives."""
    code = "import sys; from hpc.core.processes import identity; print(identity(), flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.kill()
    process.communicate()


def test_identities_tell_who_is_gone(child: str) -> None:
    assert processes.is_gone(processes.identity()) is False
    assert processes.is_gone(child) is False
    boot, namespace, pid, start = child.split("/")
    assert processes.is_gone("/".join([boot, namespace, pid, str(int(start) + 1)])) is True
    assert processes.is_gone("/".join(["another", namespace, pid, start])) is None
    assert processes.is_gone("") is None


def dead() -> str:
    machine = processes.identity().rsplit("/", 2)[0]
    return f"{machine}/{2**22 + 1}/1"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "STALE_SECONDS", 0.2)
    monkeypatch.setattr(succession, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(succession, "ASK_SECONDS", 0.0)


async def turn(run: RunDir, **options: Any) -> Tenure | None:
    async with asyncio.timeout(30):
        return await wait_turn(run, asyncio.Event(), **options)


def beat(run: RunDir, process: str = "") -> Callable[[], None]:
    """Renew the heartbeat of generation 4."""
    count = iter(range(1_000_000))
    return lambda: discovery.publish(run, info(4, process=process, heartbeat=float(next(count))))


async def test_a_router_on_another_machine_is_believed_while_its_heart_beats(run: RunDir, quick: None) -> None:
    """Also where the lock is free: locks of that file system may not reach from machine to machine."""
    pulse = beat(run)
    pulse()

    async def keep_beating() -> None:
        while True:
            pulse()
            await asyncio.sleep(0.02)

    beating = asyncio.create_task(keep_beating())
    with pytest.raises(HpcError, match="router 4 on h shows signs of life"):
        await turn(run)
    waiting = asyncio.create_task(turn(run, standby=True))
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done
    beating.cancel()
    tenure = await waiting
    assert tenure is not None
    assert tenure.generation == 5
    tenure.end()


async def test_a_process_that_is_gone_need_not_be_waited_for(run: RunDir) -> None:
    beat(run, process=dead())()
    tenure = await turn(run)
    assert tenure is not None
    tenure.end()


async def test_the_schedulers_word_ends_the_wait_for_a_job(run: RunDir, quick: None) -> None:
    beat(run)()
    asked = []

    def is_over(who: discovery.RouterInfo) -> bool:
        asked.append(who.job_id)
        return len(asked) > 2

    tenure = await turn(run, standby=True, is_over=is_over)
    assert tenure is not None
    tenure.end()


async def test_a_lock_that_outlived_its_node_is_passed_by_only_on_the_schedulers_word(run: RunDir, quick: None) -> None:
    run.router_dir.mkdir(parents=True)
    discovery.publish(run, info(4, process="other/node/1/1"))
    with (run.router_dir / "lock").open("w") as ghost:
        fcntl.flock(ghost, fcntl.LOCK_EX)
        waiting = asyncio.create_task(turn(run, standby=True))
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done, "a silent router may only be paused"
        waiting.cancel()
        tenure = await turn(run, standby=True, is_over=lambda who: who.job_id == "17_0")
        assert tenure is not None
        tenure.check()
        tenure.end()


async def test_a_paused_router_on_this_machine_keeps_its_lock(run: RunDir, quick: None, child: str) -> None:
    run.router_dir.mkdir(parents=True)
    discovery.publish(run, info(4, process=child))
    with (run.router_dir / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = asyncio.create_task(turn(run, standby=True, is_over=lambda who: True))
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done
        waiting.cancel()
        with pytest.raises(HpcError, match=r"holds .*lock"):
            await turn(run)


async def test_a_standby_leaves_with_the_run(run: RunDir, quick: None) -> None:
    tenure = begin(run)
    waiting = asyncio.create_task(turn(run, standby=True))
    await asyncio.sleep(0.1)
    run.mark_done("over")
    assert await waiting is None
    tenure.end()


def test_the_copy_is_compact(run: RunDir) -> None:
    tenure = begin(run)
    with contextlib.closing(serve(tenure)) as desk:
        desk.record([HELLO, *(alert(number) for number in range(400))])
    tenure.end()
    with contextlib.closing(sqlite3.connect(tenure.journal)) as database:
        database.execute("delete from alert")
        database.commit()
    before = tenure.journal.stat().st_size
    successor = begin(run)
    assert successor.journal.stat().st_size < before / 4
    with contextlib.closing(sqlite3.connect(successor.journal)) as database:
        assert database.execute("pragma auto_vacuum").fetchone() == (2,)
    successor.end()
