"""Figures as the pages say them."""

from __future__ import annotations

import time


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def score(value: float | None) -> str:
    """A score in [0, 100] with one digit."""
    return "–" if value is None else f"{value:.1f}"


def clock(at: float) -> str:
    """Unix seconds as a date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
