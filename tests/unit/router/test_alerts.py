"""Alerts as annotators share them: claims, merging, budget, digests, escalation."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpc.config.attention import AttentionConfig, BudgetConfig, EscalationConfig, QuietConfig, QuietWindow
from hpc.core.errors import HpcError
from hpc.router import journal
from hpc.router.annals import Annalist, read_annals
from hpc.router.desk import AlertCard, Claim, Post
from hpc.router.journal import JournalDesk
from hpc.router.state import Delivered, Ended, Joined, Raised
from hpc.rundir import RunDir
from hpc.wire.messages import Alert, Guidance, Hello, StepBrief

EPISODE = "r-00000"
OTHER = "r-00001"
NOON = 1_764_244_800.0  # 2025-11-27 12:00 UTC
NIGHT = NOON + 11 * 3600
MORNING = NOON + 19 * 3600
NIGHTS = QuietConfig(windows=(QuietWindow(start="22:00", end="07:00"),))


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., JournalDesk]]:
    desks: list[JournalDesk] = []

    def open_(**attention: Any) -> JournalDesk:
        for desk in desks:
            desk.close()
        path = tmp_path / "journal.sqlite3"
        desks.append(JournalDesk(path, clock=clock, attention=AttentionConfig(**attention)))
        for number, episode in enumerate((EPISODE, OTHER)):
            hello = Hello(
                id="h", sent_at=clock.now, run="r", episode=episode, epoch=1, token="t", task="lab", index=number
            )
            desks[-1].record([Joined(hello, clock.now)])
        return desks[-1]

    yield open_
    for desk in desks:
        desk.close()


def raise_(desk: JournalDesk, clock: Clock, step: int, *, episode: str = EPISODE, **fields: Any) -> str:
    values: dict[str, Any] = {"detector": "loop", "score": 0.5, "reason": f"stuck at {step}", **fields}
    evidence = [StepBrief(step=step, action="eval {}", observation="score 0.0")]
    name = f"{episode}-a{step}"
    alert = Alert(id=name, sent_at=clock.now, episode=episode, epoch=1, step=step, evidence=evidence, **values)
    desk.record([Raised(alert, clock.now)])
    return name


def card_of(desk: JournalDesk, alert: str) -> AlertCard:
    card = desk.alert(alert)
    assert card is not None
    return card


def publish(desk: JournalDesk) -> list[Post]:
    """What a willing frontend publishes, boards and threads left out, in order."""

    async def all_of_it() -> list[Post]:
        published = []
        while desk.counts()["posts_due"]:
            post = (await asyncio.wait_for(desk.wait_posts(), 5))[0]
            desk.begin_post(post.post)
            desk.finish_post(post.post, f"ts-{post.episode}" if post.kind == "thread" else f"ts-{post.alert}")
            published.append(post)
        return published

    return [post for post in asyncio.run(all_of_it()) if post.kind not in ("thread", "board")]


def kinds(posts: list[Post]) -> list[str]:
    return [post.kind for post in posts]


# ---- claims


def test_the_first_claim_wins_until_its_time_is_over(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened(claim_minutes=30)
    name = raise_(desk, clock, 4)
    until = NOON + 1800
    assert desk.claim(name, "ada") == Claim(result="claimed", owner="ada", until=until)
    assert desk.claim(name, "bob") == Claim(result="held", owner="ada", until=until)
    assert (card_of(desk, name).owner, card_of(desk, name).claimed_until) == ("ada", until)
    clock.now = until - 0.001
    assert desk.claim(name, "bob").result == "held"
    clock.now = until
    assert card_of(desk, name).owner is None
    assert desk.claim(name, "bob") == Claim(result="claimed", owner="bob", until=until + 1800)


def test_one_prolongs_ones_own_claim_and_gives_it_up(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened()
    name = raise_(desk, clock, 4)
    desk.claim(name, "ada")
    clock.now += 600
    assert desk.claim(name, "ada").until == clock.now + 1800
    assert not desk.release(name, "bob")
    assert desk.release(name, "ada")
    assert not desk.release(name, "ada")
    assert card_of(desk, name).owner is None
    assert desk.claim(name, "bob").result == "claimed"


def test_what_is_closed_or_unknown_cannot_be_claimed(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened()
    name = raise_(desk, clock, 4)
    desk.resolve(name, "ada", "false_alarm")
    assert desk.claim(name, "bob").result == "closed"
    assert desk.claim("r-00000-a99", "bob") == Claim(result="unknown")
    assert not desk.release(name, "ada")


def test_anybody_may_answer_and_the_owner_stays_on_the_card(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened()
    name = raise_(desk, clock, 4)
    desk.claim(name, "ada")
    clock.now += 60
    verdict = desk.take_reply(
        key="k", episode=EPISODE, alert=None, annotator="bob", text="turn left", sent_at=clock.now
    )
    assert verdict == "accepted"
    card = card_of(desk, name)
    assert (card.state, card.owner, card.closed_by, card.closed_at) == ("answered", "ada", "bob", clock.now)


def test_claims_outlive_the_process(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened()
    name = raise_(desk, clock, 4)
    desk.claim(name, "ada")
    before = card_of(desk, name)
    assert card_of(opened(), name) == before


def test_a_shown_alert_is_brought_up_to_date_and_only_the_newest_state_counts(
    opened: Callable[..., JournalDesk], clock: Clock
) -> None:
    desk = opened()
    name = raise_(desk, clock, 4)
    desk.claim(name, "ada")
    assert kinds(publish(desk)) == ["alert"], "it is published as it is by then"
    assert card_of(desk, name).reference == f"ts-{name}"
    desk.release(name, "ada")
    desk.claim(name, "bob")
    [update] = publish(desk)
    assert (update.kind, update.alert) == ("update", name)
    clock.now += 1800
    desk.attend()
    assert kinds(publish(desk)) == ["update"], "the claim has lapsed"
    desk.attend()
    assert publish(desk) == []
    desk.record([Ended(EPISODE, "finished", 9, None, clock.now)])
    assert kinds(publish(desk)) == ["update"]


# ---- merging


def test_an_alert_that_says_the_same_again_joins_the_open_one(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened()
    first = raise_(desk, clock, 4)
    publish(desk)
    clock.now += 60
    second = raise_(desk, clock, 9, score=0.9)
    raise_(desk, clock, 9, score=0.9)  # the agent says it again: the same alert
    assert [card.alert for card in desk.alerts()] == [first]
    card = card_of(desk, first)
    assert (card.count, card.step, card.last_step, card.last_at) == (2, 4, 9, clock.now)
    assert (card.reason, card.score, card.evidence[0].step) == ("stuck at 9", 0.9, 9)
    assert [(post.kind, post.alert) for post in publish(desk)] == [("update", first)]
    merged = card_of(desk, second)
    assert (merged.state, merged.merged_into, merged.step) == ("merged", first, 9)


def test_only_the_same_detectors_open_drift_alert_of_the_episode_is_joined(
    opened: Callable[..., JournalDesk], clock: Clock
) -> None:
    desk = opened()
    names = [
        raise_(desk, clock, 4),
        raise_(desk, clock, 5, detector="errors"),
        raise_(desk, clock, 6, episode=OTHER),
        raise_(desk, clock, 7, detector="agent", priority="ask"),
        raise_(desk, clock, 8, detector="agent", priority="ask"),
    ]
    assert [card.alert for card in desk.alerts()] == names
    desk.resolve(names[0], "ada", "resolved")
    names.append(raise_(desk, clock, 9))
    assert [card.alert for card in desk.alerts()] == names[1:]


@pytest.mark.parametrize("act", ["claim", "resolve", "reply"])
def test_what_is_done_to_a_merged_alert_is_done_to_the_one_it_joined(
    opened: Callable[..., JournalDesk], clock: Clock, act: str
) -> None:
    desk = opened()
    first, second = raise_(desk, clock, 4), raise_(desk, clock, 9)
    if act == "claim":
        assert desk.claim(second, "ada").result == "claimed"
        assert card_of(desk, first).owner == "ada"
        assert desk.release(second, "ada")
    elif act == "resolve":
        assert desk.resolve(second, "ada", "false_alarm")
        assert card_of(desk, first).state == "false_alarm"
    else:
        desk.take_reply(key="k", episode=EPISODE, alert=second, annotator="ada", text="left", sent_at=clock.now)
        assert [reply.text for reply in desk.guidance_of_alert(first)] == ["left"]
        assert card_of(desk, first).state == "answered"


# ---- budget and digests


def test_what_is_beyond_the_budget_waits_in_the_inbox_for_a_digest(
    opened: Callable[..., JournalDesk], clock: Clock
) -> None:
    desk = opened(budget=BudgetConfig(alerts_per_hour=2, merge=False))
    shown = [raise_(desk, clock, step) for step in (1, 2)]
    held = [raise_(desk, clock, step) for step in (3, 4)]
    ask = raise_(desk, clock, 5, priority="ask")
    assert [post.alert for post in publish(desk)] == [ask, *shown]
    assert [card.held for card in desk.alerts()] == [None, None, "budget", "budget", None]
    desk.resolve(held[0], "ada", "resolved")
    clock.now += 3599
    desk.attend()
    assert publish(desk) == []
    clock.now += 1
    desk.attend()
    desk.attend()
    next_hour = raise_(desk, clock, 6)
    alert, digest = publish(desk)
    assert (alert.alert, digest.kind) == (next_hour, "digest")
    assert [card.alert for card in desk.digest(digest.post)] == [held[1]]
    clock.now += 7200
    desk.attend()
    assert publish(desk) == [], "what a digest has listed is not listed again"


def test_a_held_alert_can_be_answered_though_its_episode_has_no_thread_yet(tmp_path: Path, clock: Clock) -> None:
    attention = AttentionConfig(quiet=NIGHTS)
    clock.now = NIGHT
    desk = JournalDesk(tmp_path / "j.sqlite3", clock=clock, threads="alert", attention=attention)
    try:
        hello = Hello(id="h", sent_at=clock.now, run="r", episode=EPISODE, epoch=1, token="t", index=0)
        desk.record([Joined(hello, clock.now)])
        name = raise_(desk, clock, 4)
        assert publish(desk) == []
        desk.take_reply(key="k", episode=EPISODE, alert=name, annotator="ada", text="left", sent_at=clock.now)
        [guidance] = desk.pending()
        desk.record([Delivered(guidance.id, EPISODE, clock.now)])
        assert [(post.kind, post.status) for post in publish(desk)] == [("receipt", "delivered")]
    finally:
        desk.close()


def test_nights_are_quiet_and_mornings_have_a_digest(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened(quiet=NIGHTS)
    clock.now = NIGHT
    drift = raise_(desk, clock, 1)
    milestone = raise_(desk, clock, 2, priority="milestone", detector="milestone")
    ask = raise_(desk, clock, 3, priority="ask", detector="agent")
    desk.attend()
    assert [(post.kind, post.alert) for post in publish(desk)] == [("alert", ask)]
    clock.now = MORNING - 1
    desk.attend()
    assert publish(desk) == []
    clock.now = MORNING
    desk.attend()
    [digest] = publish(desk)
    assert (digest.kind, digest.episode) == ("digest", "")
    assert [card.alert for card in desk.digest(digest.post)] == [drift, milestone]


def test_where_many_wait_for_the_frontend_the_rest_is_held_back(
    opened: Callable[..., JournalDesk], clock: Clock
) -> None:
    desk = opened(budget=BudgetConfig(merge=False, queue=3))
    for step in range(1, 6):
        raise_(desk, clock, step)
    assert [card.held for card in desk.alerts()] == [None, None, None, "queue", "queue"]


def test_a_digest_that_is_not_out_yet_takes_more_in(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened(budget=BudgetConfig(alerts_per_hour=1, merge=False))
    raise_(desk, clock, 1)
    raise_(desk, clock, 2)
    publish(desk)
    clock.now += 3600
    desk.attend()
    raise_(desk, clock, 3)
    raise_(desk, clock, 4)
    clock.now += 3600
    desk.attend()
    [digest] = [post for post in publish(desk) if post.kind == "digest"]
    assert [card.step for card in desk.digest(digest.post)] == [2, 4]


# ---- escalation


def test_an_alert_nobody_takes_care_of_goes_from_one_to_the_next(
    opened: Callable[..., JournalDesk], clock: Clock
) -> None:
    desk = opened(escalation=EscalationConfig(minutes=15, to=("U1", "S2")))
    name = raise_(desk, clock, 4)
    raise_(desk, clock, 5, priority="milestone", detector="milestone")
    publish(desk)
    called = []
    for _ in range(60):
        clock.now += 60
        desk.attend()
        called += [((clock.now - NOON) / 60, post.target) for post in publish(desk) if post.kind == "escalation"]
    assert called == [(15, "U1"), (30, "S2")]
    assert card_of(desk, name).escalated_to == ["U1", "S2"]


def test_a_claim_stops_the_clock_and_its_end_starts_it_anew(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened(claim_minutes=30, escalation=EscalationConfig(minutes=15, to=("U1",)))
    name = raise_(desk, clock, 4)
    publish(desk)
    clock.now += 14 * 60
    desk.claim(name, "ada")
    called = []
    for _ in range(60):
        clock.now += 60
        desk.attend()
        called += [(clock.now - NOON) / 60 for post in publish(desk) if post.kind == "escalation"]
    assert called == [14 + 30 + 15]


@pytest.mark.parametrize("act", ["claim", "answer", "resolve"])
def test_nobody_is_called_any_more_once_somebody_takes_care(
    opened: Callable[..., JournalDesk], clock: Clock, act: str
) -> None:
    desk = opened(escalation=EscalationConfig(minutes=15, to=("U1",)))
    name = raise_(desk, clock, 4)
    publish(desk)
    clock.now += 900
    desk.attend()
    if act == "claim":
        desk.claim(name, "ada")
    elif act == "answer":
        desk.take_reply(key="k", episode=EPISODE, alert=name, annotator="ada", text="left", sent_at=clock.now)
    else:
        desk.resolve(name, "ada", "resolved")
    assert "escalation" not in kinds(publish(desk))


def test_who_was_called_is_known_after_a_restart(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    rules = {"escalation": EscalationConfig(minutes=15, to=("U1", "U2"))}
    desk = opened(**rules)
    raise_(desk, clock, 4)
    publish(desk)
    clock.now += 900
    desk.attend()
    desk = opened(**rules)
    desk.attend()
    assert [post.target for post in publish(desk) if post.kind == "escalation"] == ["U1"]
    clock.now += 900
    desk.attend()
    assert [post.target for post in publish(desk) if post.kind == "escalation"] == ["U2"]


def test_what_was_never_shown_is_not_escalated(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened(escalation=EscalationConfig(minutes=1, to=("U1",)), quiet=NIGHTS)
    raise_(desk, clock, 1)  # never published
    clock.now = NIGHT
    raise_(desk, clock, 2, detector="errors")  # held back
    clock.now = MORNING
    for _ in range(5):
        clock.now += 60
        desk.attend()
    assert kinds(publish(desk)) == ["alert", "digest"]


# ---- corrections and validity


def say(desk: JournalDesk, clock: Clock, key: str, text: str, **fields: Any) -> None:
    values: dict[str, Any] = {"episode": EPISODE, "alert": None, "annotator": "ada", "sent_at": clock.now, **fields}
    assert desk.take_reply(key=key, text=text, **values) == "accepted"


def test_how_long_a_reply_is_good_for_goes_with_it(opened: Callable[..., JournalDesk], clock: Clock) -> None:
    desk = opened()
    out: list[Guidance] = []
    desk.on_reply = out.append
    say(desk, clock, "k1", "left", valid_until_step=12, valid_until=NOON + 60)
    assert (out[0].valid_until_step, out[0].valid_until) == (12, NOON + 60)
    assert desk.pending() == out
    card = desk.guidance_of_key("k1")
    assert card is not None
    assert (card.valid_until_step, card.valid_until, card.kind) == (12, NOON + 60, "strategy")


def test_a_correction_before_delivery_takes_the_first_texts_place(
    opened: Callable[..., JournalDesk], clock: Clock
) -> None:
    desk = opened()
    name = raise_(desk, clock, 4)
    publish(desk)
    say(desk, clock, "k1", "left")
    first = desk.pending()[0].id
    say(desk, clock, "k2", "right", replaces="k1")
    say(desk, clock, "k3", "straight on", replaces="k1")  # the message is edited once more
    [guidance] = desk.pending()
    assert (guidance.text, guidance.alert) == ("straight on", name)
    states = {reply.text: (reply.state, reply.replaces) for reply in desk.guidance_of_alert(name)}
    second = desk.guidance_of_key("k2")
    assert second is not None
    assert states == {
        "left": ("superseded", None),
        "right": ("superseded", first),
        "straight on": ("queued", second.guidance),
    }
    receipts = [post.status for post in publish(desk) if post.kind == "receipt"]
    assert receipts == ["superseded", "superseded"]


def test_after_delivery_a_correction_goes_out_and_names_what_it_replaces(
    opened: Callable[..., JournalDesk], clock: Clock
) -> None:
    desk = opened()
    say(desk, clock, "k1", "left")
    first = desk.pending()[0].id
    desk.record([Delivered(first, EPISODE, clock.now)])
    say(desk, clock, "k2", "right", kind="correction", replaces=first)
    [guidance] = desk.pending()
    assert (guidance.text, guidance.replaces) == ("right", first)
    card = desk.guidance(first)
    assert card is not None
    assert card.state == "delivered", "whether the agent has applied it is the agent's to say"


@pytest.mark.parametrize("other", ["k-of-nobody", "k-elsewhere"])
def test_what_does_not_exist_here_is_not_replaced(opened: Callable[..., JournalDesk], clock: Clock, other: str) -> None:
    desk = opened()
    say(desk, clock, "k-elsewhere", "left", episode=OTHER)
    say(desk, clock, "k2", "right", replaces=other)
    assert [(guidance.text, guidance.replaces) for guidance in desk.pending()] == [("left", None), ("right", None)]


# ---- what is left for statistics


def test_statistics_learn_of_many_alerts_in_slices(
    opened: Callable[..., JournalDesk], clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents wait for each slice, so none may hold all; and an alert that stays open is not read again."""
    monkeypatch.setattr(journal, "FACTS", 3)
    run = RunDir(tmp_path / "r")
    desk = opened(budget=BudgetConfig(queue=0))
    annalist = Annalist(run)
    names = [raise_(desk, clock, step, detector=f"d{step}") for step in range(7)]
    assert [desk.gather(annalist) for _ in range(3)] == [False, False, True]
    assert desk._alerts.facts(annalist.bookmark.alert, 3) == ([], 7, True)
    desk.record([Ended(EPISODE, "finished", 9, None, clock.now)])
    desk.chronicle("r", annalist)
    found = read_annals(run)
    assert found is not None
    assert {alert.alert: alert.state for alert in found.alerts} == dict.fromkeys(names, "expired")
    assert desk._alerts.facts(annalist.bookmark.alert, 3) == ([], 7, True)


def test_statistics_learn_what_is_new_and_what_has_changed(
    opened: Callable[..., JournalDesk], clock: Clock, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "r")
    desk = opened()
    annalist = Annalist(run)

    def states() -> dict[str, str]:
        desk.chronicle("r", annalist)
        found = read_annals(run)
        assert found is not None
        assert found.since == NOON
        return {
            **{alert.alert: alert.state for alert in found.alerts},
            **{reply.episode: reply.state for reply in found.replies},
        }

    assert states() == {}
    first = raise_(desk, clock, 1)
    other = raise_(desk, clock, 2, episode=OTHER)
    say(desk, clock, "k1", "left", episode=OTHER)
    assert states() == {first: "open", other: "answered", OTHER: "queued"}
    assert annalist.bookmark.alert == 2
    merged = raise_(desk, clock, 3)
    desk.resolve(first, "ada", "false_alarm")
    desk.record([Delivered(desk.pending()[0].id, OTHER, clock.now)])
    assert states() == {first: "false_alarm", other: "answered", merged: "merged", OTHER: "delivered"}
    desk = opened()
    annalist = Annalist(run)
    desk.record([Ended(OTHER, "finished", 9, None, clock.now)])
    assert states()[OTHER] == "too_late"
    assert states() == {first: "false_alarm", other: "answered", merged: "merged", OTHER: "too_late"}


# ---- the file


FIRST_FORMAT = """
create table meta (name text primary key, value integer not null) without rowid;
insert into meta values ('schema', 1), ('generation', 4);
create table episode (
    episode text primary key, run text not null, number integer not null, task text not null,
    epoch integer not null, state text not null, step integer not null, drift real not null, score real,
    seen_at real not null, ended_at real, ended_epoch integer, thread text, cursor text not null default ''
) without rowid;
insert into episode values ('r-00000', 'r', 0, 'lab', 1, 'running', 4, 0.5, null, 1.0, null, null, 'T1', '');
create table alert (
    number integer primary key, alert text not null unique, episode text not null, task text not null,
    detector text not null, score real not null, step integer not null, reason text not null,
    priority text not null, evidence blob not null, sent_at real not null, stored_at real not null,
    state text not null, closed_by text
);
insert into alert values
    (1, 'r-00000-a4', 'r-00000', 'lab', 'loop', 0.5, 4, 'stuck', 'drift', x'90', 1.0, 1.0, 'open', null);
create table guidance (
    number integer primary key, guidance text not null unique, key text not null unique,
    episode text not null, alert text, annotator text not null, text text not null, kind text not null,
    control text, sent_at real not null, taken_at real not null, delivered_at real, applied_at real,
    applied_step integer, state text not null
);
insert into guidance values
    (1, 'gu-1', 'k1', 'r-00000', null, 'ada', 'left', 'strategy', null, 1.0, 1.0, null, null, null, 'queued');
create table post (
    number integer primary key, post text not null unique, kind text not null, episode text not null,
    priority integer not null, attempted_at real, alert text, guidance text, status text,
    done_at real, reference text, dropped text
);
insert into post values (1, 'po-1', 'alert', 'r-00000', 2, 1.0, 'r-00000-a4', null, null, 2.0, 'T9', null);
"""


def test_a_journal_of_the_first_format_is_brought_up_to_date(
    opened: Callable[..., JournalDesk], tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "journal.sqlite3") as old:
        old.executescript(FIRST_FORMAT)
    old.close()
    for _ in range(2):
        desk = opened()
        card = card_of(desk, "r-00000-a4")
        assert (card.state, card.count, card.owner, card.reference) == ("open", 1, None, "T9")
        assert [guidance.text for guidance in desk.pending()] == ["left"]
    assert desk.claim("r-00000-a4", "ada").result == "claimed"


SECOND_FORMAT = """
create table meta (name text primary key, value integer not null) without rowid;
insert into meta values ('schema', 2);
create table episode (
    episode text primary key, run text not null, number integer not null, task text not null,
    epoch integer not null, state text not null, step integer not null, drift real not null, score real,
    seen_at real not null, ended_at real, ended_epoch integer, thread text, cursor text not null default ''
) without rowid;
insert into episode values
    ('r-00000', 'r', 0, 'lab', 1, 'running', 3, 0.0, null, 1.0, null, null, 'T1', ''),
    ('r-00001', 'r', 1, 'lab', 1, 'finished', 3, 0.0, null, 1.0, 2.0, 1, null, '');
create table alert (
    number integer primary key, alert text not null unique, episode text not null, task text not null,
    detector text not null, score real not null, step integer not null, reason text not null,
    priority text not null, sent_at real not null, stored_at real not null,
    state text not null, closed_by text, closed_at real, owner text, claimed_until real,
    merged_into text, merged integer not null default 0, held text, digest text,
    waiting_since real, escalated_to text not null default '[]', reference text,
    evidence blob not null
);
create index alert_waiting on alert (episode, detector) where state = 'open';
create index alert_merged on alert (merged_into) where merged_into is not null;
create index alert_held_back on alert (held, stored_at)
    where state = 'open' and held is not null and digest is null;
insert into alert values
    (3, 'r-00000-a4', 'r-00000', 'lab', 'loop', 0.5, 4, 'stuck', 'drift', 1.0, 1.0, 'open', null, null, 'ada', 9e9,
     null, 1, null, null, 2.0, '["U1"]', 'T9', x'90'),
    (5, 'r-00000-a5', 'r-00000', 'lab', 'loop', 0.9, 5, 'worse', 'drift', 2.0, 2.0, 'merged', null, null, null, null,
     'r-00000-a4', 0, null, null, null, '[]', null, x'90'),
    (6, 'r-00000-a6', 'r-00000', 'lab', 'errors', 0.9, 6, 'held', 'drift', 2.0, 2.0, 'open', null, null, null, null,
     null, 0, 'queue', null, null, '[]', null, x'90'),
    (7, 'r-00001-a1', 'r-00001', 'lab', 'loop', 0.9, 1, 'over', 'drift', 2.0, 2.0, 'expired', null, 3.0, null, null,
     null, 0, null, null, null, '[]', null, x'90');
create table guidance (
    number integer primary key, guidance text not null unique, key text not null unique,
    episode text not null, alert text, annotator text not null, text text not null, kind text not null,
    control text, sent_at real not null, taken_at real not null, delivered_at real, applied_at real,
    applied_step integer, state text not null, valid_until_step integer, valid_until real, replaces text
);
create table post (
    number integer primary key, post text not null unique, kind text not null, episode text not null,
    priority integer not null, attempted_at real, alert text, guidance text, status text,
    done_at real, reference text, dropped text, target text
);
"""


def test_a_journal_of_the_second_format_is_brought_up_to_date(
    opened: Callable[..., JournalDesk], tmp_path: Path, clock: Clock
) -> None:
    """Its alerts had an index of their names; without it they must still be told apart."""
    with sqlite3.connect(tmp_path / "journal.sqlite3") as old:
        old.executescript(SECOND_FORMAT)
    old.close()
    for _ in range(2):
        desk = opened()
        for step in (4, 5, 6):
            raise_(desk, clock, step)  # said again, as after an answer that was lost
        raise_(desk, clock, 1, episode=OTHER)
        found = [
            (card.alert, card.state, card.count, card.merged_into, card.held) for card in desk.alerts(open_only=False)
        ]
        assert found == [
            ("r-00000-a4", "open", 2, None, None),
            ("r-00000-a5", "merged", 1, "r-00000-a4", None),
            ("r-00000-a6", "open", 1, None, "queue"),
            ("r-00001-a1", "expired", 1, None, None),
        ]
        card = card_of(desk, "r-00000-a4")
        assert (card.owner, card.escalated_to, card.reference, card.last_step) == ("ada", ["U1"], "T9", 5)
        assert [one.alert for one in desk.alerts()] == ["r-00000-a4", "r-00000-a6"]
    raise_(desk, clock, 8)
    assert card_of(desk, "r-00000-a8").merged_into == "r-00000-a4"
    numbers = desk._store.all("select number from alert order by number")
    assert [row["number"] for row in numbers] == [3, 5, 6, 7, 8]


def test_a_journal_of_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    JournalDesk(path).close()
    with sqlite3.connect(path) as file:
        file.execute("update meta set value = 99 where name = 'schema'")
    file.close()
    before = path.read_bytes()
    with pytest.raises(HpcError, match="has format 99"):
        JournalDesk(path)
    assert path.read_bytes() == before
