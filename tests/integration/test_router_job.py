"""The router as a job: when it ends, with which exit status, and what late annotators hear."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from hpc.agent.mailbox import Mailbox
from hpc.config.router import RouterConfig
from hpc.core import files
from hpc.core.errors import AnnotatorError, HpcError
from hpc.router import service
from hpc.router.annotators.console import ConsoleFrontend
from hpc.router.desk import Desk
from hpc.router.service import Router
from hpc.router.state import Ended, Fact
from hpc.rundir import RunDir
from hpc.slurm import REQUEUE, Allocation
from hpc.trajectories.records import DriftSignal
from hpc.wire import discovery
from jobs.router import RouterJob
from tests.integration.router_support import make_run, wait_until

SLACK = {"kind": "slack", "slack": {"channel": "C0123456789", "annotators": ["U0123456789"]}}


def play(run: RunDir, allocation: Allocation) -> tuple[threading.Thread, list[object]]:
    """Run the job in a thread; the list gets its exit status or its error."""
    ended: list[object] = []

    def work() -> None:
        try:
            ended.append(RouterJob()(run, allocation))
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, ended


@pytest.mark.parametrize(("reason", "status"), [("preempt", REQUEUE), ("walltime", REQUEUE), ("cancel", 0)])
def test_a_job_that_must_go_ends_cleanly(tmp_path: Path, reason: str, status: int) -> None:
    run = make_run(tmp_path / "run")
    allocation = Allocation(job_id="17_0")
    thread, ended = play(run, allocation)
    info = wait_until(lambda: discovery.read(run))
    assert info.job_id == "17_0"
    allocation.stop(reason)  # type: ignore[arg-type]
    thread.join(30)
    assert ended == [status]
    assert not run.router.exists()


def test_a_job_that_has_to_stop_before_it_starts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    allocation = Allocation(job_id="17_0")
    allocation.stop("preempt")
    thread, ended = play(run, allocation)
    thread.join(30)
    assert ended == [REQUEUE]


def test_the_job_ends_with_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.mark_done("all episodes are over")
    thread, ended = play(run, Allocation(job_id="17_0"))
    thread.join(30)
    assert ended == [0]


def test_missing_slack_tokens_end_the_job_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    run = make_run(tmp_path / "run")
    config = files.read_json(run.config)
    config["config"]["annotators"] = SLACK
    files.write_json(run.config, config)
    thread, ended = play(run, Allocation(job_id="17_0"))
    thread.join(30)
    assert isinstance(ended[0], AnnotatorError)
    assert "no SLACK_BOT_TOKEN" in ended[0].message


class Frontend:
    """Publishes like Slack would; fails as told."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.receipts: list[tuple[str, str | None]] = []
        self.started = 0

    async def run(self, desk: Desk) -> None:
        self.started += 1
        if self.failures:
            raise self.failures.pop(0)
        while True:
            for post in await desk.wait_posts():
                desk.begin_post(post.post)
                desk.finish_post(post.post, f"ts-{post.post}")
                guidance = desk.guidance(post.guidance or "")
                if guidance is not None:
                    self.receipts.append((guidance.text, post.status))


def make_router(run: RunDir, frontend: object, *, grace: float = 0.0) -> Router:
    config = RouterConfig(host="127.0.0.1", heartbeat_seconds=1, resend_seconds=0.5, grace_seconds=grace)
    return Router(run, config, frontend, annotators="console")  # type: ignore[arg-type]


async def until(probe: Callable[[], object]) -> None:
    """`wait_until` on the loop's own thread, where the desk lives."""
    async with asyncio.timeout(60):
        while not probe():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def start_episode(run: RunDir) -> tuple[Mailbox, str]:
    episode = f"{run.name}-00000"
    mail = Mailbox(run, index=0, episode=episode, epoch=1, task="test")
    await mail.start()
    signal = DriftSignal(detector="d", score=0.5, step=1, reason="stuck")
    await mail.raise_alert(signal, alert=f"{episode}-a1", evidence=[], sent_at=time.time())
    return mail, episode


def say(desk: Desk, episode: str, text: str) -> str:
    return desk.take_reply(key=text, episode=episode, alert=None, annotator="ada", text=text, sent_at=time.time())


async def test_annotators_hear_what_became_of_their_replies(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    frontend = Frontend()
    router = make_router(run, frontend, grace=600.0)
    serving = asyncio.create_task(router.serve())
    mail, episode = await start_episode(run)
    await until(lambda: router.desk.alerts())
    assert say(router.desk, episode, "one") == "accepted"
    await mail.wait_due(30)
    [(guidance, delivered_at)] = mail.due()
    assert delivered_at >= guidance.sent_at
    await mail.applied(guidance.id, 4)
    await until(lambda: ("one", "applied") in frontend.receipts)
    await mail.close()  # the node is gone; this one will never be delivered
    assert say(router.desk, episode, "two") == "accepted"
    run.mark_done("cancelled")
    await until(lambda: ("two", "too_late") in frontend.receipts)
    assert say(router.desk, episode, "three") == "too_late"
    await until(lambda: ("three", "too_late") in frontend.receipts)
    assert frontend.receipts == [("one", "delivered"), ("one", "applied"), ("two", "too_late"), ("three", "too_late")]
    assert not serving.done(), "it stays for its grace"
    router.stop()
    assert await serving == "stopped"


async def test_a_run_that_is_resumed_in_its_grace_keeps_its_router(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    router = make_router(run, ConsoleFrontend(announce=False), grace=3.0)
    serving = asyncio.create_task(router.serve())
    mail, episode = await start_episode(run)
    await until(lambda: router.desk.alerts())
    run.mark_done("cancelled")
    await until(lambda: not router.desk.live_episodes())
    run.done.unlink()
    await mail.close()
    again = Mailbox(run, index=0, episode=episode, epoch=2, task="test")
    await again.start()
    await until(lambda: router.desk.live_episodes())
    assert say(router.desk, episode, "welcome back") == "accepted"
    await again.wait_due(30)
    assert [guidance.text for guidance, _ in again.due()] == ["welcome back"]
    await again.close()
    router.stop()
    assert await serving == "stopped"


async def test_a_frontend_that_breaks_starts_again_and_one_that_cannot_work_ends_the_router(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FRONTEND_RETRY_SECONDS", 0.01)
    run = make_run(tmp_path / "run")
    frontend = Frontend(RuntimeError("a bug"), RuntimeError("another"), AnnotatorError("no such channel"))
    with pytest.raises(AnnotatorError, match="no such channel"):
        await make_router(run, frontend).serve()
    assert frontend.started == 3
    assert not run.router.exists()


async def test_a_journal_that_cannot_be_written_acknowledges_nothing_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    router = make_router(run, ConsoleFrontend(announce=False))
    record = router.desk.record
    full = True

    def refuse(facts: object) -> None:
        if full:
            raise HpcError("disk is full")
        record(facts)  # type: ignore[arg-type]

    monkeypatch.setattr(router.desk, "record", refuse)
    serving = asyncio.create_task(router.serve())
    mail, episode = await start_episode(run)
    await until(lambda: router._counters["batches_lost"] > 1)
    assert router.desk.alerts() == []
    full = False
    await until(lambda: router.desk.alerts())
    assert say(router.desk, episode, "at last") == "accepted"
    await mail.wait_due(30)
    assert len(mail.due()) == 1
    await mail.close()
    router.stop()
    assert await serving == "stopped"


async def test_the_end_of_an_episode_that_cannot_be_noted_is_noted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LOOK_SECONDS", 0.01)
    run = make_run(tmp_path / "run")
    router = make_router(run, ConsoleFrontend(announce=False))
    serving = asyncio.create_task(router.serve())
    mail, episode = await start_episode(run)
    await until(lambda: router.desk.live_episodes())
    await mail.close()  # without a Bye
    record, refused = router.desk.record, 0
    noted: list[object] = []

    def note(facts: Iterable[Fact]) -> None:
        batch = list(facts)
        noted.extend(batch)
        record(batch)

    def refuse(facts: object) -> None:
        nonlocal refused
        refused += 1
        raise HpcError("disk is full")

    monkeypatch.setattr(router.desk, "record", refuse)
    run.mark_done("cancelled")
    await until(lambda: refused > 1 or serving.done())
    assert not serving.done(), "a full disk must not end the router"
    monkeypatch.setattr(router.desk, "record", note)
    assert await serving == "done"
    assert [(fact.episode, fact.status) for fact in noted if isinstance(fact, Ended)] == [(episode, "stopped")]
