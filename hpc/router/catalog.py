"""What must be known of alerts at once, in memory: their names, which are open, which were held back.

An index on names in the journal's file has a place to insert at for each episode: in a storm every alert
would change pages of its own, which cost more to write than the alert. So the file keeps alerts in order
of arrival, and this keeps the rest. It mirrors the tables: it is read from them at the start, and anew
after a transaction was rolled back, so that it never knows of an alert that the disk does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import msgspec

from hpc.router.attention import HeldBack, Hold
from hpc.router.store import Store


class _Open(msgspec.Struct, frozen=True, gc=False):
    """An open alert; ``held``: why it was held back, while no digest has listed it."""

    detector: str
    drift: bool
    held: Hold | None


class Catalog:
    """The alerts of a journal. Whoever changes a row says so right after the statement that did."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stale = True
        self._closed: set[int] = set()  # one too many does no harm, so it is left alone when the rest is read anew
        store.on_rollback.append(self._forget_all)
        self._refresh()

    def _forget_all(self) -> None:
        self._stale = True

    def _refresh(self) -> None:
        """Read everything, if what is here may not be what the journal holds."""
        if not self._stale:
            return
        living = self._store.each("select episode from episode where ended_at is null")
        self._living = {str(row["episode"]) for row in living}
        self._numbers: dict[str, int] = {}
        self._open: dict[str, dict[int, _Open]] = {}
        self._first: dict[tuple[str, str], int] = {}
        self._several: set[tuple[str, str]] = set()
        self._held: dict[Hold, dict[int, float]] = {}
        for row in self._store.each(
            "select number, alert, episode, detector, priority = 'drift' as drift, stored_at, state = 'open' as open,"
            " case when digest is null then held end as held from alert order by number"
        ):
            number = int(row["number"])
            self._numbers[row["alert"]] = number
            if row["open"]:
                opened = _Open(row["detector"], bool(row["drift"]), row["held"])
                self._opened(number, row["episode"], opened, row["stored_at"])
        self._stale = False

    # ---- episodes

    def joined(self, episode: str) -> None:
        """An episode lives."""
        self._refresh()
        self._living.add(episode)

    def ended(self, episode: str) -> None:
        """An episode has ended."""
        self._refresh()
        self._living.discard(episode)

    def lives(self, episode: str) -> bool:
        """Whether an episode is known and has not ended."""
        self._refresh()
        return episode in self._living

    # ---- all alerts

    def number(self, alert: str) -> int | None:
        """The row of an alert; None where there is none of that name."""
        self._refresh()
        return self._numbers.get(alert)

    def numbers(self, alerts: Iterable[str]) -> list[int]:
        """The rows of those of the alerts that have one."""
        return [number for alert in alerts if (number := self.number(alert)) is not None]

    def added(self, alert: str, number: int) -> None:
        """There is a new alert."""
        self._refresh()
        self._numbers[alert] = number

    def forgotten(self, alerts: Iterable[str]) -> None:
        """Closed alerts have left the journal."""
        self._refresh()
        for alert in alerts:
            self._numbers.pop(alert, None)

    # ---- open alerts

    def opened(self, number: int, episode: str, detector: str, *, drift: bool, held: Hold | None, at: float) -> None:
        """A new alert is open; ``held``: why it was held back, ``at``: when that was (Unix seconds)."""
        self._refresh()
        self._opened(number, episode, _Open(detector, drift, held), at)

    def _opened(self, number: int, episode: str, opened: _Open, at: float) -> None:
        self._open.setdefault(episode, {})[number] = opened
        if opened.drift:
            place = (episode, opened.detector)
            if self._first.setdefault(place, number) != number:  # never while alerts are merged
                self._several.add(place)
        if opened.held is not None:
            self._held.setdefault(opened.held, {})[number] = at

    def closed(self, number: int, episode: str) -> None:
        """An alert is not open any more."""
        self._refresh()
        others = self._open.get(episode, {})
        gone = others.pop(number, None)
        if gone is None:
            return
        self._closed.add(number)
        if not others:
            del self._open[episode]
        if gone.held is not None:
            self._held.get(gone.held, {}).pop(number, None)  # a digest may have listed it
        place = (episode, gone.detector)
        if self._first.get(place) == number:
            del self._first[place]
            if place in self._several:
                alike = (n for n, other in others.items() if other.drift and other.detector == gone.detector)
                if (following := next(alike, None)) is not None:
                    self._first[place] = following

    def first_open(self, episode: str, detector: str) -> int | None:
        """The oldest open drift alert of a detector about an episode."""
        self._refresh()
        return self._first.get((episode, detector))

    def open_of(self, episode: str) -> list[int]:
        """The open alerts of an episode, oldest first."""
        self._refresh()
        return list(self._open.get(episode, ()))

    def count_open(self, episode: str | None = None) -> int:
        """How many alerts are open, of an episode or of all."""
        self._refresh()
        if episode is not None:
            return len(self._open.get(episode, ()))
        return sum(map(len, self._open.values()))

    def all_open(self) -> list[int]:
        """The open alerts of all episodes, oldest first."""
        self._refresh()
        return sorted(number for those in self._open.values() for number in those)

    def closed_since(self, limit: int) -> list[int]:
        """Some of the alerts that were closed and not yet `told`."""
        return list(itertools.islice(self._closed, limit))

    def told(self, numbers: Iterable[int]) -> None:
        """Statistics know that these were closed."""
        self._closed.difference_update(numbers)

    # ---- those held back

    def held_back(self) -> list[HeldBack]:
        """What was held back and no digest has listed, by reason."""
        self._refresh()
        groups = ((why, list(those.values())) for why, those in self._held.items())
        return [HeldBack(why, len(times), min(times)) for why, times in groups if times]

    def unlisted(self) -> list[int]:
        """The alerts that were held back and no digest has listed."""
        self._refresh()
        return [number for those in self._held.values() for number in those]

    def listed(self) -> None:
        """A digest lists all that were held back."""
        self._refresh()
        self._held.clear()
