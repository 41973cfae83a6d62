"""The desk on its journal: what a frontend sees, and what survives."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpc.config.attention import AttentionConfig, BudgetConfig
from hpc.core.errors import AnnotatorError, HpcError
from hpc.router.desk import Desk, Post
from hpc.router.journal import LATE_SECONDS, JournalDesk
from hpc.router.replies import MAX_REPLY
from hpc.router.state import Applied, Delivered, Ended, Joined, Missed, Moved, Raised
from hpc.wire.messages import Alert, Guidance, Hello, Progress, StepBrief

EACH_ALERT = AttentionConfig(budget=BudgetConfig(merge=False))
EPISODE = "r-00000"
OTHER = "r-00001"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., JournalDesk]]:
    """Opens the same journal again and again, as restarts do."""
    desks: list[JournalDesk] = []

    def open_(**options: Any) -> JournalDesk:
        for desk in desks:
            desk.close()
        options = {"attention": EACH_ALERT, **options}
        desks.append(JournalDesk(tmp_path / "journal.sqlite3", clock=clock, **options))
        return desks[-1]

    yield open_
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(opened: Callable[..., JournalDesk]) -> JournalDesk:
    desk = opened()
    join(desk, EPISODE)
    return desk


def join(desk: JournalDesk, episode: str, epoch: int = 1, at: float = 1000.0) -> None:
    hello = Hello(
        id="h", sent_at=at, run="r", episode=episode, epoch=epoch, token="t", task="lab", index=int(episode[-5:])
    )
    desk.record([Joined(hello, at)])


def raise_(desk: JournalDesk, name: str = "a1", episode: str = EPISODE, at: float = 1001.0, **fields: Any) -> str:
    alert = Alert(
        id=f"{episode}-{name}",
        sent_at=at,
        episode=episode,
        epoch=1,
        detector="loop",
        score=0.9,
        step=4,
        reason="stuck",
        evidence=[StepBrief(step=4, action="eval {}", observation="score 0.0")],
        **fields,
    )
    desk.record([Raised(alert, at)])
    return alert.id


def say(desk: JournalDesk, key: str = "k1", text: str = "turn left", **fields: Any) -> str:
    values = {"episode": EPISODE, "alert": None, "annotator": "ada", "sent_at": 1002.0, **fields}
    return desk.take_reply(key=key, text=text, **values)


def given(desk: JournalDesk, key: str) -> Any:
    card = desk.guidance_of_key(key)
    assert card is not None
    return card


async def next_posts(desk: JournalDesk) -> list[Post]:
    return await asyncio.wait_for(desk.wait_posts(), 5)


async def publish_all(desk: JournalDesk) -> list[tuple[str, str | None]]:
    """What a willing frontend publishes, in order: (kind, status)."""
    published = []
    while desk.counts()["posts_due"]:
        post = (await next_posts(desk))[0]
        desk.begin_post(post.post)
        desk.finish_post(post.post, f"ts-{post.episode}" if post.kind == "thread" else f"ts-{post.post}")
        published.append((post.kind, post.status))
    return published


def test_it_is_the_desk_that_frontends_expect(desk: JournalDesk) -> None:
    interface: Desk = desk
    assert interface.episode(EPISODE) is not None


# ---- alerts and replies


def test_an_alert_becomes_a_card_once(desk: JournalDesk) -> None:
    name = raise_(desk)
    raise_(desk)
    [card] = desk.alerts()
    assert card == desk.alert(name)
    assert (card.episode, card.run, card.reason, card.state, card.sent_at) == (EPISODE, "r", "stuck", "open", 1001.0)
    assert card.evidence == [StepBrief(step=4, action="eval {}", observation="score 0.0")]


def test_a_reply_answers_its_alert_and_goes_out_at_once(opened: Callable[..., JournalDesk]) -> None:
    out: list[Guidance] = []
    desk = opened(on_reply=out.append)
    join(desk, EPISODE)
    name = raise_(desk)
    assert say(desk, alert=name, kind="knowledge") == "accepted"
    [guidance] = out
    assert (guidance.episode, guidance.alert, guidance.text, guidance.kind) == (EPISODE, name, "turn left", "knowledge")
    assert guidance.sent_at == 1002.0
    assert desk.pending() == [guidance]
    assert desk.alerts() == []
    assert [card.state for card in desk.alerts(open_only=False)] == ["answered"]


def test_a_reply_is_taken_once_a_key(desk: JournalDesk) -> None:
    assert [say(desk), say(desk, text="again"), say(desk, key="k2")] == ["accepted", "duplicate", "accepted"]
    assert [guidance.text for guidance in desk.pending()] == ["turn left", "turn left"]


def test_a_reply_without_an_alert_answers_the_newest_open_one(desk: JournalDesk) -> None:
    first, second = raise_(desk, "a1"), raise_(desk, "a2")
    say(desk, "k1")
    assert given(desk, "k1").alert == second
    say(desk, "k2")
    assert given(desk, "k2").alert == first
    say(desk, "k3")
    assert given(desk, "k3").alert is None


def test_a_reply_never_crosses_over_to_another_episode(desk: JournalDesk) -> None:
    join(desk, OTHER)
    theirs = raise_(desk, episode=OTHER)
    assert say(desk, alert=theirs) == "unknown"
    assert say(desk, episode="r-00009") == "unknown"
    assert desk.pending() == []
    say(desk)
    assert given(desk, "k1").alert is None
    assert [card.alert for card in desk.alerts()] == [theirs]


def test_control_answers_no_alert(desk: JournalDesk) -> None:
    raise_(desk)
    assert say(desk, text="", control="pause") == "accepted"
    [guidance] = desk.pending()
    assert (guidance.kind, guidance.control, guidance.alert) == ("control", "pause", None)
    assert len(desk.alerts()) == 1


@pytest.mark.parametrize("verdict", ["resolved", "false_alarm"])
def test_an_alert_can_be_closed_once_without_guidance(desk: JournalDesk, verdict: Any) -> None:
    name = raise_(desk)
    assert desk.resolve(name, "ada", verdict)
    assert not desk.resolve(name, "bob", "resolved")
    assert not desk.resolve("r-00000-a99", "ada", "resolved")
    card = desk.alert(name)
    assert card is not None
    assert card.state == verdict
    assert desk.pending() == []


def test_an_alert_shows_what_the_episode_was_told_before(desk: JournalDesk, clock: Clock) -> None:
    say(desk, "k1", "first")
    say(desk, "k2", "never arrived")
    desk.record([Delivered(given(desk, "k1").guidance, EPISODE, 1003.0)])
    name = raise_(desk, at=clock.now + 10)
    card = desk.alert(name)
    assert card is not None
    assert card.earlier_guidance == ["first"]


@pytest.mark.parametrize("text", ["x" * (MAX_REPLY + 1)])
def test_a_reply_that_is_too_long_is_an_error(desk: JournalDesk, text: str) -> None:
    with pytest.raises(AnnotatorError, match="the limit is 100000"):
        say(desk, text=text)


def test_text_is_kept_as_it_is_but_for_what_cannot_be_sent(desk: JournalDesk) -> None:
    text = "Ω <@U1> `rm -rf /` \x00 \n'; drop table guidance; --"
    say(desk, "k1", text)
    say(desk, "k2", "half \ud83d of a pair")
    assert [guidance.text for guidance in desk.pending()] == [text, "half ? of a pair"]


# ---- what becomes of guidance


def test_the_way_of_a_reply(desk: JournalDesk) -> None:
    say(desk)
    name = given(desk, "k1").guidance
    desk.record([Delivered(name, EPISODE, 1003.0), Delivered(name, EPISODE, 1009.0)])
    assert desk.pending() == []
    desk.record([Applied(name, EPISODE, 7, 1004.0), Applied(name, EPISODE, 8, 1010.0)])
    card = given(desk, "k1")
    assert (card.state, card.delivered_at, card.applied_at, card.applied_step) == ("applied", 1003.0, 1004.0, 7)


def test_applied_alone_implies_delivered(desk: JournalDesk) -> None:
    say(desk)
    name = given(desk, "k1").guidance
    desk.record([Applied(name, EPISODE, None, 1004.0)])
    assert (given(desk, "k1").state, given(desk, "k1").delivered_at) == ("applied", 1004.0)
    assert desk.pending() == []


def test_facts_about_another_episodes_guidance_change_nothing(desk: JournalDesk) -> None:
    join(desk, OTHER)
    say(desk)
    name = given(desk, "k1").guidance
    desk.record([Delivered(name, OTHER, 1.0), Applied(name, OTHER, 1, 1.0), Missed(name, OTHER, 1.0)])
    assert given(desk, "k1").state == "queued"


def test_the_end_of_an_episode(desk: JournalDesk) -> None:
    name = raise_(desk)
    for key in ("k1", "k2", "k3"):
        say(desk, key, control="resume" if key == "k2" else None)
    desk.record([Applied(given(desk, "k1").guidance, EPISODE, 5, 1003.0)])
    desk.record([Delivered(given(desk, "k2").guidance, EPISODE, 1003.0)])
    second = raise_(desk, "a2")
    desk.record([Ended(EPISODE, "finished", 9, 80.0, 1005.0)])
    assert [given(desk, key).state for key in ("k1", "k2", "k3")] == ["applied", "too_late", "too_late"]
    assert desk.pending() == []
    states = {card.alert: card.state for card in desk.alerts(open_only=False)}
    assert states == {name: "answered", second: "expired"}
    card = desk.episode(EPISODE)
    assert card is not None
    assert (card.state, card.step, card.score, card.open_alerts) == ("finished", 9, 80.0, 0)
    assert say(desk, "k4") == "too_late"
    assert raise_(desk, "a3") not in {alert.alert for alert in desk.alerts()}
    assert desk.live_episodes() == []


def test_only_a_later_incarnation_opens_an_episode_again(desk: JournalDesk) -> None:
    desk.record([Ended(EPISODE, "stopped", 9, None, 1005.0)])
    join(desk, EPISODE, epoch=1)
    assert say(desk, "k1") == "too_late"
    join(desk, EPISODE, epoch=2)
    assert say(desk, "k2") == "accepted"
    desk.record([Ended(EPISODE, "finished", 12, None, 1006.0)])
    card = desk.episode(EPISODE)
    assert card is not None
    assert card.state == "finished"


def test_progress_moves_the_card_and_cannot_end_it(desk: JournalDesk) -> None:
    def move(state: str, step: int) -> None:
        progress = Progress(
            id="p", sent_at=1.0, episode=EPISODE, epoch=1, step=step, state=state, drift=0.25, score=40.0
        )
        desk.record([Moved(progress, 1003.0)])

    move("paused", 3)
    move("finished", 4)
    card = desk.episode(EPISODE)
    assert card is not None
    assert (card.state, card.step, card.drift, card.score, card.seen_at) == ("paused", 3, 0.25, 40.0, 1003.0)


# ---- posts


async def test_a_thread_comes_first_and_then_what_is_urgent(desk: JournalDesk) -> None:
    raise_(desk, "a1", priority="milestone")
    raise_(desk, "a2", priority="ask")
    say(desk, "k1")
    desk.record([Delivered(given(desk, "k1").guidance, EPISODE, 1003.0)])
    [post] = await next_posts(desk)
    assert (post.kind, post.priority) == ("thread", 1)
    desk.begin_post(post.post)
    assert [card.kind for card in await next_posts(desk)] == ["thread"], "nothing else is due without its thread"
    desk.finish_post(post.post, "ts-1")
    assert desk.episode_of_thread("ts-1") == EPISODE
    posts = await next_posts(desk)
    assert [(post.kind, post.alert, post.status) for post in posts] == [
        ("receipt", None, "delivered"),
        ("alert", f"{EPISODE}-a2", None),
        ("alert", f"{EPISODE}-a1", None),
    ]


async def test_a_post_begun_before_a_crash_says_so(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened()
    join(desk, EPISODE)
    [post] = await next_posts(desk)
    assert post.attempted_at is None
    clock.now = 1234.0
    desk.begin_post(post.post)
    [again] = await next_posts(opened())
    assert (again.post, again.attempted_at) == (post.post, 1234.0)


async def test_a_finished_post_never_comes_back(opened: Callable[..., JournalDesk]) -> None:
    desk = opened()
    join(desk, EPISODE)
    raise_(desk)
    assert await publish_all(desk) == [("thread", None), ("alert", None)]
    desk = opened()
    join(desk, EPISODE, epoch=2)
    raise_(desk)
    assert desk.counts()["posts_due"] == 0


async def test_every_stage_of_a_reply_has_one_receipt(desk: JournalDesk) -> None:
    await publish_all(desk)
    say(desk)
    name = given(desk, "k1").guidance
    desk.record([Delivered(name, EPISODE, 1003.0), Delivered(name, EPISODE, 1003.0)])
    desk.record([Applied(name, EPISODE, 7, 1004.0), Applied(name, EPISODE, 7, 1004.0)])
    desk.record([Ended(EPISODE, "finished", 9, None, 1005.0)])
    say(desk, "k2")
    say(desk, "k2")
    assert await publish_all(desk) == [
        ("receipt", "delivered"),
        ("receipt", "applied"),
        ("receipt", "too_late"),
        ("board", None),
    ]


async def test_only_the_newest_board_counts(desk: JournalDesk) -> None:
    await publish_all(desk)
    for number in range(4):
        raise_(desk, f"a{number}")
        desk.resolve(f"{EPISODE}-a{number}", "ada", "resolved")
    assert [kind for kind, _ in await publish_all(desk)] == ["alert"] * 4 + ["board"]


async def test_a_change_while_the_thread_is_being_opened_is_shown_after_it(desk: JournalDesk) -> None:
    [post] = await next_posts(desk)
    desk.begin_post(post.post)
    name = raise_(desk)
    desk.resolve(name, "ada", "resolved")
    desk.finish_post(post.post, "ts-1")
    assert [post.kind for post in await next_posts(desk)] == ["alert", "board"]


async def test_mere_progress_is_shown_now_and_then(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened(board_seconds=60.0)
    join(desk, EPISODE)
    await publish_all(desk)
    boards = 0
    for second in range(0, 150, 10):
        clock.now = 2000.0 + second
        progress = Progress(id="p", sent_at=1.0, episode=EPISODE, epoch=1, step=second, state="running")
        desk.record([Moved(progress, clock.now)])
        boards += len(await publish_all(desk))
    assert boards == 3


async def test_threads_may_wait_for_the_first_alert(opened: Callable[..., JournalDesk]) -> None:
    desk = opened(threads="alert")
    join(desk, EPISODE)
    assert desk.counts()["posts_due"] == 0
    raise_(desk)
    assert [kind for kind, _ in await publish_all(desk)] == ["thread", "alert"]


async def test_a_thread_that_cannot_be_opened_takes_its_posts_with_it_until_the_next_alert(desk: JournalDesk) -> None:
    raise_(desk, "a1")
    [thread] = await next_posts(desk)
    desk.drop_post(thread.post, "channel is archived")
    assert desk.counts()["posts_due"] == 0
    assert len(desk.alerts()) == 1, "the alert itself can still be answered from the inbox"
    raise_(desk, "a2")
    assert await publish_all(desk) == [("thread", None), ("alert", None)]


async def test_alerts_of_an_ended_episode_that_nobody_saw_are_not_shown(desk: JournalDesk) -> None:
    raise_(desk)
    desk.record([Ended(EPISODE, "finished", 9, None, 1005.0)])
    assert [kind for kind, _ in await publish_all(desk)] == ["thread"]


async def test_waiting_for_posts_ends_when_one_comes(desk: JournalDesk) -> None:
    await publish_all(desk)
    waiting = asyncio.create_task(desk.wait_posts())
    await asyncio.sleep(0)
    assert not waiting.done()
    raise_(desk)
    assert [post.kind for post in await asyncio.wait_for(waiting, 5)] == ["alert", "board"]


async def test_threads_are_read_while_they_may_get_replies(desk: JournalDesk, clock: Clock) -> None:
    join(desk, OTHER)
    await publish_all(desk)
    assert desk.open_threads() == [(f"ts-{EPISODE}", ""), (f"ts-{OTHER}", "")]
    desk.advance_cursor(f"ts-{EPISODE}", "1700000000.000200")
    desk.advance_cursor(f"ts-{EPISODE}", "1700000000.000100")
    desk.record([Ended(OTHER, "finished", 9, None, clock.now)])
    assert desk.open_threads() == [(f"ts-{EPISODE}", "1700000000.000200"), (f"ts-{OTHER}", "")]
    clock.now += LATE_SECONDS + 1
    assert [thread for thread, _ in desk.open_threads()] == [f"ts-{EPISODE}"]
    assert desk.episode_of_thread(f"ts-{OTHER}") == OTHER


# ---- the file


def test_everything_outlives_the_process(opened: Callable[..., JournalDesk]) -> None:
    desk = opened()
    join(desk, EPISODE, epoch=3)
    raise_(desk)
    say(desk)
    before = (desk.episodes(), desk.alerts(open_only=False), desk.pending(), desk.epochs())
    desk = opened()
    assert (desk.episodes(), desk.alerts(open_only=False), desk.pending(), desk.epochs()) == before
    assert desk.epochs() == {EPISODE: 3}


def test_two_routers_cannot_have_one_journal(tmp_path: Path) -> None:
    desk = JournalDesk(tmp_path / "journal.sqlite3")
    try:
        with pytest.raises(HpcError, match="another router is serving this run"):
            JournalDesk(tmp_path / "journal.sqlite3")
        join(desk, EPISODE)
    finally:
        desk.close()
    JournalDesk(tmp_path / "journal.sqlite3").close()


def test_a_committed_fact_is_in_the_files_a_crash_leaves_behind(tmp_path: Path) -> None:
    desk = JournalDesk(tmp_path / "journal.sqlite3")
    try:
        join(desk, EPISODE)
        name = raise_(desk)
        say(desk)
        left = tmp_path / "left"  # what is on the disk at this instant, the process still running
        left.mkdir()
        for path in tmp_path.glob("journal.sqlite3*"):
            shutil.copy(path, left / path.name)
    finally:
        desk.close()
    survivor = JournalDesk(left / "journal.sqlite3")
    try:
        assert [guidance.alert for guidance in survivor.pending()] == [name]
    finally:
        survivor.close()


def test_a_batch_is_taken_whole_or_not_at_all(desk: JournalDesk) -> None:
    def batch() -> Iterator[Any]:
        yield Ended(EPISODE, "finished", 9, None, 1005.0)
        raise RuntimeError("the process breaks here")

    with pytest.raises(RuntimeError):
        desk.record(batch())
    assert len(desk.live_episodes()) == 1
    assert say(desk) == "accepted"


def test_rubbish_is_not_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(HpcError, match="journal"):
        JournalDesk(path)
