"""When annotators are called, at the boundaries: midnight, summer time, the hour, the limits."""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.config.attention import AttentionConfig, BudgetConfig, EscalationConfig, QuietConfig, QuietWindow
from hpc.router.attention import (
    HeldBack,
    Waiting,
    awake_seconds,
    digest_due,
    escalations_due,
    hold,
    is_quiet,
    quiet_intervals,
)

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = QuietConfig(timezone="Europe/Berlin", windows=(QuietWindow(start="22:00", end="07:00"),))
NEVER = QuietConfig()


def at(text: str, zone: datetime.tzinfo = BERLIN, fold: int = 0) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("time", "quiet"),
    [
        ("2026-11-26T21:59:59", False),
        ("2026-11-26T22:00:00", True),
        ("2026-11-26T23:59:59", True),
        ("2026-11-27T00:00:00", True),
        ("2026-11-27T06:59:59", True),
        ("2026-11-27T07:00:00", False),
    ],
)
def test_a_night_crosses_midnight(time: str, quiet: bool) -> None:
    assert is_quiet(NIGHTS, at(time)) is quiet


@pytest.mark.parametrize(
    ("time", "quiet"),
    [
        ("2026-11-27T21:30:00", False),  # Friday, before it
        ("2026-11-27T22:30:00", True),
        ("2026-11-28T03:00:00", True),  # Saturday morning belongs to Friday's night
        ("2026-11-28T22:30:00", False),  # Saturday is not listed
        ("2026-11-29T03:00:00", False),
    ],
)
def test_a_window_belongs_to_the_day_on_which_it_begins(time: str, quiet: bool) -> None:
    friday = QuietConfig(timezone="Europe/Berlin", windows=(QuietWindow(days=("fri",)),))
    assert is_quiet(friday, at(time)) is quiet


@pytest.mark.parametrize(
    ("time", "quiet"),
    [
        ("2026-11-27T23:59:59", False),
        ("2026-11-28T00:00:00", True),
        ("2026-11-29T23:59:59", True),
        ("2026-11-30T00:00:00", False),
    ],
)
def test_equal_ends_are_whole_days(time: str, quiet: bool) -> None:
    weekend = QuietWindow(start="00:00", end="00:00", days=("sat", "sun"))
    assert is_quiet(QuietConfig(timezone="Europe/Berlin", windows=(weekend,)), at(time)) is quiet


def test_a_night_in_which_the_clocks_go_forward_is_an_hour_shorter() -> None:
    [(start, end)] = quiet_intervals(NIGHTS, at("2026-03-29T01:00"), at("2026-03-29T01:00"))
    assert (start, end) == (at("2026-03-28T22:00"), at("2026-03-29T07:00"))
    assert end - start == 8 * 3600


def test_a_night_in_which_the_clocks_go_back_is_an_hour_longer() -> None:
    [(start, end)] = quiet_intervals(NIGHTS, at("2026-10-25T01:00"), at("2026-10-25T01:00"))
    assert end - start == 10 * 3600
    assert is_quiet(NIGHTS, at("2026-10-25T02:30", fold=0))
    assert is_quiet(NIGHTS, at("2026-10-25T02:30", fold=1))


def test_a_window_in_the_hour_that_is_skipped_or_repeated() -> None:
    window = QuietConfig(timezone="Europe/Berlin", windows=(QuietWindow(start="02:15", end="02:45"),))
    skipped = quiet_intervals(window, at("2026-03-29T00:00"), at("2026-03-29T12:00"))
    assert [end - start for start, end in skipped] == [1800.0]
    assert is_quiet(window, at("2026-10-25T02:30", fold=0)), "the first time the clock shows it"
    assert not is_quiet(window, at("2026-10-25T02:30", fold=1))


def test_the_clock_of_the_zone_counts_and_not_of_this_machine() -> None:
    tokyo = QuietConfig(timezone="Asia/Tokyo", windows=(QuietWindow(),))
    utc = datetime.UTC
    assert is_quiet(tokyo, at("2026-11-27T13:00", utc))
    assert not is_quiet(tokyo, at("2026-11-27T12:59", utc))
    assert is_quiet(QuietConfig(windows=(QuietWindow(),)), at("2026-11-27T22:00", utc))


def test_windows_that_overlap_count_once() -> None:
    both = QuietConfig(windows=(QuietWindow(start="20:00", end="23:00"), QuietWindow(start="22:00", end="06:00")))
    since = at("2026-11-26T12:00", datetime.UTC)
    assert awake_seconds(both, since, since + 86400) == 14 * 3600
    assert [end - start for start, end in quiet_intervals(both, since, since + 3600 * 11)] == [10 * 3600]


def test_without_windows_it_is_never_quiet() -> None:
    assert not is_quiet(NEVER, 0.0)
    assert awake_seconds(NEVER, 10.0, 25.0) == 15.0
    assert awake_seconds(NEVER, 25.0, 10.0) == 0.0


@given(st.integers(0, 86400 * 365), st.integers(0, 86400 * 3), st.integers(0, 86400 * 3))
def test_time_awake_adds_up(start: int, first: int, second: int) -> None:
    begin = at("2026-01-01T00:00") + start
    parts = awake_seconds(NIGHTS, begin, begin + first) + awake_seconds(NIGHTS, begin + first, begin + first + second)
    assert parts == pytest.approx(awake_seconds(NIGHTS, begin, begin + first + second))
    assert 0 <= parts <= first + second


# ---- what is held back


def test_at_night_only_asks_are_shown() -> None:
    night, day = at("2026-11-26T23:00"), at("2026-11-26T12:00")
    attention = AttentionConfig(quiet=NIGHTS)
    assert [hold(attention, kind, night, shown=0, queued=0) for kind in ("ask", "drift", "milestone")] == [  # type: ignore[arg-type]
        None,
        "quiet",
        "quiet",
    ]
    assert hold(attention, "drift", day, shown=0, queued=0) is None
    strict = AttentionConfig(quiet=QuietConfig(timezone="Europe/Berlin", windows=NIGHTS.windows, hold_asks=True))
    assert hold(strict, "ask", night, shown=0, queued=0) == "quiet"
    assert hold(strict, "ask", day, shown=0, queued=0) is None


@pytest.mark.parametrize(("shown", "held"), [(2, None), (3, "budget"), (4, "budget")])
def test_drift_alerts_of_an_hour_are_limited(shown: int, held: str | None) -> None:
    attention = AttentionConfig(budget=BudgetConfig(alerts_per_hour=3))
    assert hold(attention, "drift", 0.0, shown=shown, queued=0) == held
    assert hold(attention, "ask", 0.0, shown=shown, queued=0) is None
    assert hold(attention, "milestone", 0.0, shown=shown, queued=0) is None
    assert hold(AttentionConfig(), "drift", 0.0, shown=10_000, queued=0) is None


@pytest.mark.parametrize(("queued", "held"), [(9, None), (10, "queue")])
def test_where_many_wait_only_asks_join_them(queued: int, held: str | None) -> None:
    assert hold(AttentionConfig(), "drift", 0.0, shown=0, queued=queued) == held
    assert hold(AttentionConfig(), "milestone", 0.0, shown=0, queued=queued) == held
    assert hold(AttentionConfig(), "ask", 0.0, shown=0, queued=queued) is None
    assert hold(AttentionConfig(budget=BudgetConfig(queue=0)), "drift", 0.0, shown=0, queued=queued) is None


# ---- digests


@pytest.mark.parametrize(
    ("now", "held", "last", "due"),
    [
        (3599.0, 1, None, False),
        (3600.0, 1, None, True),
        (3600.0, 0, None, False),
        (3600.0, 10, 1000.0, False),
        (4600.0, 10, 1000.0, True),
        (599.0, 11, None, False),
        (600.0, 11, None, True),
        (1599.0, 11, 1000.0, False),
        (1600.0, 11, 1000.0, True),
    ],
)
def test_a_digest_comes_every_hour_and_sooner_where_much_is_held(
    now: float, held: int, last: float | None, due: bool
) -> None:
    budget = BudgetConfig(digest_minutes=60, digest_alerts=10)
    waiting = [HeldBack("budget", held, 0.0)] if held else []
    assert digest_due(budget, NEVER, now, held=waiting, last_digest=last) is due


def test_what_the_night_held_back_is_listed_in_the_morning() -> None:
    held = [HeldBack("quiet", 1, at("2026-11-26T23:00"))]
    for time, due in (("2026-11-27T06:59:59", False), ("2026-11-27T07:00:00", True)):
        assert digest_due(BudgetConfig(), NIGHTS, at(time), held=held, last_digest=at("2026-11-27T06:30")) is due


# ---- escalation


def waiting(since: float, *called: str) -> Waiting:
    return Waiting(alert="a", since=since, escalated_to=called)


ESCALATION = EscalationConfig(minutes=15, to=("U1", "S2"))


@pytest.mark.parametrize(
    ("after", "called", "due"),
    [
        (899.9, (), []),
        (900.0, (), [("a", "U1")]),
        (900.0, ("U1",), [("a", "S2")]),
        (1e9, ("U1", "S2"), []),
        (900.0, ("U9",), [("a", "U1")]),
    ],
)
def test_each_is_called_once_after_the_delay(after: float, called: tuple[str, ...], due: list[tuple[str, str]]) -> None:
    attention = AttentionConfig(escalation=ESCALATION)
    assert escalations_due(attention, [waiting(0.0, *called)], after) == due


def test_nobody_is_called_where_nobody_is_listed() -> None:
    assert escalations_due(AttentionConfig(), [waiting(0.0)], 1e9) == []


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-11-26T22:05:00", False),  # quiet
        ("2026-11-27T06:59:00", False),
        ("2026-11-27T07:04:59", False),  # ten minutes before the night, five after it
        ("2026-11-27T07:05:00", True),
    ],
)
def test_escalation_waits_for_the_morning_and_the_night_does_not_count(now: str, due: bool) -> None:
    attention = AttentionConfig(escalation=ESCALATION, quiet=NIGHTS)
    found = escalations_due(attention, [waiting(at("2026-11-26T21:50"))], at(now))
    assert bool(found) is due
