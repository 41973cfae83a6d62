"""Whom the frontend obeys, how fast it may call, and that it ends when told to."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from hpc.config.annotators import SlackConfig
from hpc.router.annotators import slack_allow
from hpc.router.annotators.slack_allow import RETRY_SECONDS, AllowList, Undecided
from hpc.router.annotators.slack_catch_up import keep_catching_up
from hpc.router.annotators.slack_references import edit_key, message_of, reference
from hpc.router.annotators.slack_web import Lane, Unsure

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))
from local_slack.annotator import Sheet, visible_text
from local_slack.limits import POST_BURST, RateLimits


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Group:
    """A user group at Slack; None cannot be read."""

    def __init__(self, members: frozenset[str] | None) -> None:
        self.members = members
        self.reads = 0
        self.was_read = asyncio.Event()

    async def __call__(self, usergroup: str) -> frozenset[str]:
        self.reads += 1
        self.was_read.set()
        if self.members is None:
            raise Unsure("no answer")
        return self.members


# ---- the allow-list


async def test_only_listed_users_are_obeyed() -> None:
    allow = AllowList(SlackConfig(annotators=("U0ALICE",)), Group(frozenset({"U0EVE"})))
    assert await allow.allows("U0ALICE")
    for user in ("U0EVE", "", "u0alice", "U0ALICE "):
        assert not await allow.allows(user)


async def test_nobody_is_obeyed_by_default() -> None:
    assert not await AllowList(SlackConfig(), Group(frozenset({"U0EVE"}))).allows("U0EVE")


async def test_members_are_remembered_for_a_while_and_no_longer() -> None:
    clock, group = Clock(), Group(frozenset({"U0BOB"}))
    allow = AllowList(SlackConfig(usergroup="S0X", usergroup_seconds=300), group, clock=clock)
    for _ in range(3):
        assert await allow.allows("U0BOB")
        assert not await allow.allows("U0EVE")
    assert group.reads == 1
    group.members = frozenset()
    clock.now += 299
    assert await allow.allows("U0BOB")
    clock.now += 2
    assert not await allow.allows("U0BOB")


async def test_a_group_that_cannot_be_read_makes_nobody_an_annotator() -> None:
    clock, group = Clock(), Group(frozenset({"U0BOB"}))
    config = SlackConfig(annotators=("U0ALICE",), usergroup="S0X", usergroup_seconds=300)
    allow = AllowList(config, group, clock=clock)
    assert await allow.allows("U0BOB")
    group.members = None
    clock.now += 301
    for _ in range(5):
        with pytest.raises(Undecided):
            await allow.allows("U0BOB")
    assert group.reads == 2  # no storm of calls
    assert await allow.allows("U0ALICE")
    group.members = frozenset({"U0BOB"})
    clock.now += RETRY_SECONDS + 1
    assert await allow.allows("U0BOB")


async def test_members_are_known_before_they_are_needed() -> None:
    clock, group = Clock(), Group(frozenset({"U0BOB"}))
    allow = AllowList(SlackConfig(usergroup="S0X", usergroup_seconds=300), group, clock=clock)
    fresh = asyncio.create_task(allow.keep_fresh())
    await group.was_read.wait()
    assert await allow.allows("U0BOB")
    assert group.reads == 1
    fresh.cancel()


async def test_a_slack_that_is_slow_to_tell_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slack_allow, "DECIDE_SECONDS", 0.01)

    async def slow(_usergroup: str) -> frozenset[str]:
        await asyncio.sleep(60)
        return frozenset({"U0BOB"})

    allow = AllowList(SlackConfig(usergroup="S0X"), slow)
    with pytest.raises(Undecided):
        await allow.allows("U0BOB")


# ---- the pace


def test_a_lane_allows_a_burst_and_then_its_rate() -> None:
    clock = Clock()
    lane = Lane(1.0, 3, clock=clock)
    for _ in range(3):
        assert lane.delay() == 0
        lane.take()
    assert lane.delay() == pytest.approx(1.0)
    clock.now += 0.4
    assert lane.delay() == pytest.approx(0.6)
    clock.now += 100
    for _ in range(3):
        assert lane.delay() == 0
        lane.take()
    assert lane.delay() > 0


def test_a_closed_lane_waits_as_long_as_it_was_told() -> None:
    clock = Clock()
    lane = Lane(1.0, 3, clock=clock)
    lane.close(30)
    lane.close(5)
    assert lane.delay() == pytest.approx(30)
    clock.now += 30
    assert lane.delay() == 0


def test_our_pace_stays_within_the_servers() -> None:
    clock = Clock()
    lane, limits = Lane(1.0, 3, clock=clock), RateLimits(clock=clock)
    for _ in range(200):
        clock.now += lane.delay()
        lane.take()
        assert limits.take("chat.postMessage", None, "xoxb", "C") == 0
    for _ in range(POST_BURST):
        limits.take("chat.postMessage", None, "xoxb", "C")
    assert limits.take("chat.postMessage", None, "xoxb", "C") >= 1
    assert limits.take("chat.postMessage", None, "xoxb", "other") == 0


# ---- references


def test_references_name_messages() -> None:
    assert message_of(reference("C0ALERTS", "17.000001")) == ("C0ALERTS", "17.000001")
    assert message_of(edit_key("C0ALERTS", "17.000001", "18.000002")) == ("C0ALERTS", "17.000001")
    for other in ("view:V012", "action:17.1:apollo_stop:U0:18.2", "cli:al-1", "demo-00001", "", "C0ALERTS:abc"):
        assert message_of(other) is None


# ---- ending


async def _read_nothing() -> None:
    return None


@pytest.mark.parametrize("turns", range(6))
async def test_catching_up_ends_when_cancelled_while_it_is_woken(turns: int) -> None:
    wake = asyncio.Event()
    task = asyncio.create_task(keep_catching_up([_read_nothing], 60, wake))
    await asyncio.sleep(0.01)
    wake.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done
    assert task.cancelled()


# ---- the scripted annotator

FACTS = [{"value": v, "knob": k, "option": "o", "advice": f"{v}:{k}"} for v, k in [("a", "x"), ("b", "y"), ("c", "z")]]
SHEET = Sheet({"facts": FACTS, "episodes": {"e": ["a", "b", "c"]}})


@pytest.mark.parametrize(
    ("text", "lines", "answer"),
    [
        ("next x for a\nstage 1 metric 80 pass\nnext y for b\nstage 2 metric 9 low", 1, "b:y"),
        ("next y for b", 3, "b:y; c:z"),
        ("next y for unknown", 1, "a:x"),
        ("stage 2 metric 9 low", 1, "b:y"),
        ("stage 2 metric 90 pass", 1, "c:z"),
        ("stage 3 metric 90 pass", 1, "c:z"),
        ("nothing", 2, "a:x; b:y"),
    ],
)
def test_the_sheet_answers_for_the_due_stage(text: str, lines: int, answer: str) -> None:
    assert SHEET.answer("e", text, lines) == answer


def test_the_sheet_knows_its_episodes_only() -> None:
    assert SHEET.answer("other", "next x for a", 3) is None


def test_a_reader_sees_the_blocks_in_order() -> None:
    rich = {
        "type": "rich_text",
        "elements": [{"type": "rich_text_section", "elements": [{"type": "text", "text": "two"}]}],
    }
    blocks = [{"type": "section", "text": {"type": "plain_text", "text": "one"}}, rich]
    assert visible_text({"text": "fallback", "blocks": blocks}) == "one\ntwo"
    assert visible_text({"text": "fallback"}) == "fallback"
