"""The mailbox without a router: it never waits, never raises for it, and forgets nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hpc.agent.mailbox import Mailbox
from hpc.core.errors import HpcError
from hpc.rundir import RunDir
from hpc.trajectories.records import DriftSignal, OutcomeReached
from hpc.wire import discovery
from hpc.wire.boxes import Inbox, Outbox
from hpc.wire.codec import decode
from hpc.wire.keys import create_run_keys
from hpc.wire.messages import Ack, Alert, Bye, Guidance

EPISODE = "run-00000"
SIGNAL = DriftSignal(detector="loop", score=0.5, step=3, reason="stuck", evidence=[1, 2, 3], priority="ask")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    create_run_keys(run)
    return run


@asynccontextmanager
async def mailbox(run: RunDir, *, start: bool = True, **fields: Any) -> AsyncIterator[Mailbox]:
    values = {"index": 0, "episode": EPISODE, "epoch": 1, "task": "lab", **fields}
    mail = Mailbox(run, **values)
    if start:
        await mail.start()
    try:
        yield mail
    finally:
        await mail.close()


def outbox(run: RunDir) -> list[Any]:
    box = Outbox(run.outbox(0))
    try:
        return [decode(frame) for frame in box.pending.values()]
    finally:
        box.close()


def receive(run: RunDir, *guidance: Guidance) -> None:
    """What an earlier incarnation received."""
    box = Inbox(run.inbox(0))
    for number, one in enumerate(guidance):
        box.add(one, 10.0 + number)
    box.close()


def guidance(name: str, **fields: Any) -> Guidance:
    values = {"sent_at": 5.0, "episode": EPISODE, "alert": None, "annotator": "ada", "text": f"text of {name}"}
    return Guidance(id=name, **{**values, **fields})


async def test_an_alert_is_on_the_disk_when_it_was_raised(run: RunDir) -> None:
    async with mailbox(run) as mail:
        name = await mail.raise_alert(SIGNAL, alert=f"{EPISODE}-a3", evidence=[], sent_at=7.0)
        await mail.raise_alert(SIGNAL, alert=f"{EPISODE}-a3", evidence=[], sent_at=8.0)
    assert name == f"{EPISODE}-a3"
    [alert] = outbox(run)
    assert isinstance(alert, Alert)
    assert (alert.id, alert.sent_at, alert.reason, alert.priority, alert.task) == (name, 7.0, "stuck", "ask", "lab")


async def test_no_router_and_no_keys_harm_nothing(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    async with mailbox(run) as mail:
        await mail.raise_alert(SIGNAL, alert=f"{EPISODE}-a3", evidence=[], sent_at=7.0)
        mail.progress(3, "running", 0.5, None)
        assert mail.due() == []
        assert (mail.paused, mail.stop_requested, mail.fenced) == (False, False, False)


@pytest.mark.parametrize(
    "change",
    [
        {"address": "tcp://127.0.0.1:1"},
        {"address": "no address"},
        {"public_key": "short"},
        {"address": "tcp://no-such-host.invalid:5"},
    ],
    ids=["nobody listens", "no address", "no key", "no host"],
)
async def test_a_router_that_cannot_be_reached_harms_nothing(run: RunDir, change: dict[str, str]) -> None:
    fields = {"address": "tcp://127.0.0.1:1", "public_key": "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7", **change}
    info = discovery.RouterInfo(
        inbox_address="tcp://127.0.0.1:2",
        generation=1,
        heartbeat=time.time() - 3600,
        host="h",
        pid=1,
        job_id="",
        annotators="console",
        **fields,
    )
    discovery.publish(run, info)
    async with mailbox(run) as mail:
        await asyncio.sleep(0.05)  # let it try
        await mail.raise_alert(SIGNAL, alert=f"{EPISODE}-a3", evidence=[], sent_at=7.0)
        outcome = OutcomeReached(status="finished", at=9.0, steps=4, working_seconds=1.0, final_score=80.0)
        await asyncio.wait_for(mail.bye(outcome), 3)  # the heartbeat is old: nobody to wait for
    alert, bye = outbox(run)
    assert isinstance(alert, Alert)
    assert isinstance(bye, Bye)
    assert (bye.status, bye.steps, bye.final_score) == ("finished", 4, 80.0)


async def test_guidance_is_due_in_order_until_it_was_applied(run: RunDir) -> None:
    receive(run, guidance("g1"), guidance("g2"), guidance("g3"))
    async with mailbox(run) as mail:
        assert [(due.id, at) for due, at in mail.due()] == [("g1", 10.0), ("g2", 11.0), ("g3", 12.0)]
        await mail.applied("g1", 4)
        await mail.applied("g1", 4)
        assert [due.id for due, _ in mail.due()] == ["g2", "g3"]
    [ack] = outbox(run)
    assert isinstance(ack, Ack)
    assert (ack.parent, ack.status, ack.step) == ("g1", "applied", 4)


@pytest.mark.parametrize(("applied", "step"), [({"g1"}, None), ({"g1": 6}, 6)])
async def test_the_trajectory_is_the_truth_about_what_was_applied(run: RunDir, applied: Any, step: int | None) -> None:
    """Killed after the guidance was committed and before `applied`: not due again, and acknowledged."""
    receive(run, guidance("g1"), guidance("g2"))
    for epoch in (2, 3):
        async with mailbox(run, epoch=epoch, applied=applied) as mail:
            assert [due.id for due, _ in mail.due()] == ["g2"]
    [ack] = outbox(run)
    assert (ack.id, ack.parent, ack.status, ack.step, ack.epoch) == ("g1-applied", "g1", "applied", step, 2)


async def test_guidance_received_but_not_committed_is_due_again(run: RunDir) -> None:
    receive(run, guidance("g1"))
    async with mailbox(run):
        pass
    async with mailbox(run, epoch=2) as mail:
        assert [due.id for due, _ in mail.due()] == ["g1"]
    assert outbox(run) == []


@pytest.mark.parametrize(
    ("controls", "paused", "stopped"),
    [
        (["pause"], True, False),
        (["pause", "resume"], False, False),
        (["pause", "resume", "pause"], True, False),
        (["stop"], False, True),
        (["pause", "stop"], False, True),
    ],
)
async def test_control_outlives_restarts_and_is_never_due(
    run: RunDir, controls: list[Any], paused: bool, stopped: bool
) -> None:
    receive(run, *(guidance(f"g{n}", kind="control", control=control) for n, control in enumerate(controls)))
    async with mailbox(run) as mail:
        assert (mail.paused, mail.stop_requested) == (paused, stopped)
        assert mail.due() == []
    assert [ack.parent for ack in outbox(run)] == [f"g{n}" for n in range(len(controls))]


async def test_what_is_too_old_is_never_due_again_and_the_router_is_told(run: RunDir) -> None:
    receive(run, guidance("g1", valid_until_step=4), guidance("g2"))
    async with mailbox(run, start=False) as mail:
        assert [one.id for one, _ in mail.due()] == ["g1", "g2"]
        await mail.expired("g1", 5)
        assert [one.id for one, _ in mail.due()] == ["g2"]
    async with mailbox(run, start=False, epoch=2) as mail:
        assert [one.id for one, _ in mail.due()] == ["g2"]
    [ack] = outbox(run)
    assert (ack.id, ack.parent, ack.status, ack.step) == ("g1-expired", "g1", "expired", 5)


async def test_what_a_newer_text_replaces_is_not_due(run: RunDir) -> None:
    receive(run, guidance("g1"), guidance("g2", replaces="g1"), guidance("g3", replaces="g2"))
    for epoch in (1, 2):
        async with mailbox(run, start=False, epoch=epoch) as mail:
            assert [one.id for one, _ in mail.due()] == ["g3"]
    assert [(ack.id, ack.status) for ack in outbox(run)] == [
        ("g1-superseded", "superseded"),
        ("g2-superseded", "superseded"),
    ]


async def test_what_is_in_the_context_or_expired_is_not_replaced(run: RunDir) -> None:
    receive(run, guidance("g1"), guidance("g2"))
    async with mailbox(run, start=False) as mail:
        await mail.expired("g2", 5)
    receive(run, guidance("g3", replaces="g1"), guidance("g4", replaces="g2"))
    async with mailbox(run, start=False, epoch=2, applied={"g1": 5}) as mail:
        assert [one.id for one, _ in mail.due()] == ["g3", "g4"]
    assert {ack.id for ack in outbox(run)} == {"g1-applied", "g2-expired"}


async def test_waiting_ends_by_itself(run: RunDir) -> None:
    async with mailbox(run) as mail:
        await asyncio.wait_for(mail.wait_due(0.01), 5)
        await asyncio.wait_for(mail.wait_resumed(), 5)


async def test_closing_right_after_sending_ends(run: RunDir) -> None:
    mail = Mailbox(run, index=0, episode=EPISODE, epoch=1, task="lab")
    await mail.start()
    await asyncio.sleep(0.05)  # its background task waits now
    await mail.raise_alert(SIGNAL, alert=f"{EPISODE}-a3", evidence=[], sent_at=7.0)
    async with asyncio.timeout(10):
        await mail.close()


async def test_one_process_has_an_episodes_mailbox(run: RunDir) -> None:
    async with mailbox(run):
        with pytest.raises(HpcError, match="being written by another process"):
            Mailbox(run, index=0, episode=EPISODE, epoch=2, task="lab")
    async with mailbox(run, epoch=2):
        pass


async def test_it_fits_the_episode_loop(run: RunDir) -> None:
    from hpc.agent.loop import Mail

    async with mailbox(run, start=False) as mail:
        interface: Mail = mail
        check: Callable[[], Any] = interface.due
        assert check() == []
