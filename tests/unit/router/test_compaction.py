"""A journal that lives for long stays as large as what still matters."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hpc.router.compaction import EVIDENCE_SECONDS, HISTORY_SECONDS, POST_SECONDS
from hpc.router.journal import JournalDesk
from hpc.router.state import Applied, Delivered, Ended, Fact, Joined, Raised
from hpc.wire.messages import Alert, Hello, StepBrief

EVIDENCE = [StepBrief(step=step, action="a" * 100, observation="o" * 300) for step in range(5)]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def join(episode: str) -> Joined:
    return Joined(Hello(id="h", sent_at=1.0, run="r", episode=episode, epoch=3, token="t"), 1.0)


def alert(episode: str, number: int, at: float) -> Raised:
    return Raised(
        Alert(
            id=f"{episode}-a{number}",
            sent_at=at,
            episode=episode,
            epoch=3,
            detector=f"d{number}",
            score=0.5,
            step=number,
            reason="stuck",
            evidence=EVIDENCE,
        ),
        at,
    )


def publish(desk: JournalDesk) -> None:
    for row in desk._store.all("select post, episode from post where done_at is null"):
        desk.finish_post(row["post"], row["episode"])


def live(desk: JournalDesk, clock: Clock, episode: str, alerts: int) -> None:
    """An episode with its alerts, each answered and applied, from Hello to Bye."""
    facts: list[Fact] = [join(episode)]
    with desk.together():
        desk.record(facts + [alert(episode, number, clock.now) for number in range(alerts)])
        for number in range(alerts):
            name, at = f"{episode}-a{number}", clock.now
            desk.take_reply(key=name, episode=episode, alert=name, annotator="ada", text="left " * 50, sent_at=at)
            (card,) = desk.guidance_of_alert(name)
            desk.record([Delivered(card.guidance, episode, at), Applied(card.guidance, episode, number, at)])
        desk.record([Ended(episode, "finished", 9, 80.0, clock.now)])
        publish(desk)


def compact(desk: JournalDesk) -> None:
    while desk.compact():
        pass


def test_a_long_life_does_not_grow_without_bound(tmp_path: Path) -> None:
    path, clock, sizes = tmp_path / "journal.sqlite3", Clock(), []
    for day in range(24):
        with contextlib.closing(JournalDesk(path, clock=clock)) as desk:
            live(desk, clock, f"r-{day:05d}", 20)
            compact(desk)
            assert len(desk.episodes()) == day + 1
        sizes.append(path.stat().st_size)
        clock.now += 86_400.0
    assert max(sizes[16:]) <= 1.1 * max(sizes[8:16]), sizes


def test_what_is_still_to_be_done_or_asked_for_stays(tmp_path: Path) -> None:
    clock = Clock()
    with contextlib.closing(JournalDesk(tmp_path / "journal.sqlite3", clock=clock)) as desk:
        live(desk, clock, "r-00000", 2)
        desk.record([join("r-00001"), alert("r-00001", 0, clock.now), alert("r-00001", 1, clock.now)])
        desk.take_reply(key="k", episode="r-00001", alert="r-00001-a1", annotator="ada", text="wait", sent_at=clock.now)
        before = desk.counts()["posts_due"]
        clock.now += POST_SECONDS + 1
        compact(desk)
        assert desk.counts()["posts_due"] == before > 0
        assert desk._store.all("select 1 from post where done_at is not null") == []
        assert all(card.evidence == EVIDENCE for card in desk.alerts(open_only=False))
        clock.now += EVIDENCE_SECONDS
        compact(desk)
        evidence = {card.alert: card.evidence for card in desk.alerts(open_only=False)}
        assert evidence == {"r-00000-a0": [], "r-00000-a1": [], "r-00001-a0": EVIDENCE, "r-00001-a1": []}
        clock.now += HISTORY_SECONDS
        compact(desk)
        assert {card.alert for card in desk.alerts(open_only=False)} == {"r-00001-a0", "r-00001-a1"}
        assert [guidance.text for guidance in desk.pending()] == ["wait"]
        assert desk.epochs() == {"r-00000": 3, "r-00001": 3}, "old incarnations stay fenced"


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    """Statistics remember up to which row they have read."""
    clock = Clock()
    with contextlib.closing(JournalDesk(tmp_path / "journal.sqlite3", clock=clock)) as desk:
        live(desk, clock, "r-00000", 3)
        clock.now += HISTORY_SECONDS + EVIDENCE_SECONDS
        compact(desk)
        live(desk, clock, "r-00001", 1)
        for table in ("alert", "guidance"):
            assert [row["number"] for row in desk._store.all(f"select number from {table} order by number")] == [3, 4]
