"""Configuration of when and how often annotators are called."""

from __future__ import annotations

import datetime
import re
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from hpc.config.base import Config

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


def zone(name: str) -> datetime.tzinfo:
    """The time zone of that name; UTC needs no database of zones.

    Raises:
        ValueError: this machine knows no such zone.
    """
    if name == "UTC":
        return datetime.UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"timezone is {name!r}, it must be a name such as Europe/Berlin") from error


class QuietWindow(Config):
    """A time of day, on the clock of the configured zone, at which nobody is to be disturbed."""

    start: str = "22:00"
    """When it begins, HH:MM."""
    end: str = "07:00"
    """When it ends, HH:MM; on the next day where it is not after ``start`` (equal: 24 hours)."""
    days: tuple[Day, ...] = DAYS
    """Days on which it begins."""

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not _TIME.fullmatch(value):
                raise ValueError(f"{name} is {value!r}, it must be a time such as 22:00")


class QuietConfig(Config):
    """Quiet hours: drift alerts and milestones are held back, and nothing is escalated."""

    timezone: str = "UTC"
    """IANA name of the zone whose clock counts, such as Europe/Berlin."""
    windows: tuple[QuietWindow, ...] = ()
    """When it is quiet; empty: never."""
    hold_asks: bool = False
    """Whether an agent's own requests for help are held back as well."""

    def __post_init__(self) -> None:
        zone(self.timezone)


class EscalationConfig(Config):
    """Who is called when nobody takes care of an alert."""

    minutes: float = 15.0
    """An alert that is neither answered nor claimed for so long, quiet hours not counted, is escalated."""
    to: tuple[str, ...] = ()
    """Whom to call, one after the other, each once; in Slack ids of users (U…, W…) or user groups (S…)."""

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"minutes is {self.minutes}, it must be positive")
        for target in self.to:
            if not target.strip():
                raise ValueError("to has an empty name")
        if len(set(self.to)) < len(self.to):
            raise ValueError(f"to is {list(self.to)}, it names somebody twice")


class BudgetConfig(Config):
    """How much annotators are shown."""

    alerts_per_hour: int = 0
    """Drift alerts of the run shown in any hour; 0: no limit. More are held back for a digest."""
    merge: bool = True
    """Whether an episode's drift alert joins the open one of the same detector instead of a new one."""
    queue: int = 10
    """Where so many alerts wait to be published, further drift alerts and milestones are held back; 0: never."""
    digest_minutes: float = 60.0
    """What was held back is listed in a digest this often."""
    digest_alerts: int = 10
    """Where more than so many are held back, a digest comes sooner: after a sixth of that time."""

    def __post_init__(self) -> None:
        for name in ("alerts_per_hour", "queue"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 0 or more")
        if self.digest_alerts < 1:
            raise ValueError(f"digest_alerts is {self.digest_alerts}, it must be 1 or more")
        if self.digest_minutes <= 0:
            raise ValueError(f"digest_minutes is {self.digest_minutes}, it must be positive")


class AttentionConfig(Config):
    """When and how often annotators are called."""

    claim_minutes: float = 30.0
    """For so long an alert belongs to the annotator who claimed it."""
    escalation: EscalationConfig = EscalationConfig()
    """Who is called when nobody takes care of an alert."""
    quiet: QuietConfig = QuietConfig()
    """When nobody is to be disturbed."""
    budget: BudgetConfig = BudgetConfig()
    """How much annotators are shown."""

    def __post_init__(self) -> None:
        if self.claim_minutes <= 0:
            raise ValueError(f"claim_minutes is {self.claim_minutes}, it must be positive")
