"""What a router leaves about alerts and replies: one JSON file, readable whether or not a router runs.

The journal belongs to the router's process alone, so statistics and labels ("false alarm") are read
from here. The file is replaced now and then while the router serves, and at its end; what it once
held stays in it, even when the journal was compacted since.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from hpc.core import files
from hpc.core.errors import HpcError
from hpc.router.stats import AlertFact, Annals, ReplyFact
from hpc.rundir import RunDir
from hpc.wire import discovery

FILE = "annotators.json"

UNSETTLED = ("queued", "delivered", "superseded")
"""States of a reply that are not final; one that was under way when it was replaced may yet be applied."""

log = logging.getLogger(__name__)


def annals_path(run: RunDir) -> Path:
    """Where the file is."""
    return run.router_dir / FILE


def read_annals(run: RunDir) -> Annals | None:
    """What the run's routers have left; None before the first has.

    Raises:
        HpcError: the file is damaged.
    """
    path = annals_path(run)
    if not path.exists():
        return None
    try:
        return msgspec.convert(files.read_json(path), Annals)
    except msgspec.ValidationError as error:
        raise HpcError(
            f"{path} is damaged: {error}", "remove it; the router writes it anew from its journal"
        ) from error


def last_annals(run: RunDir, *, patience: float = 5.0) -> Annals | None:
    """`read_annals`; of a run that has just ended after its router has written the last word, for which
    ``patience`` seconds are waited while that router lives.

    Raises:
        HpcError: the file is damaged.
    """
    deadline = time.monotonic() + patience
    while _is_behind(run) and time.monotonic() < deadline:
        time.sleep(0.1)
    return read_annals(run)


def _is_behind(run: RunDir) -> bool:
    """Whether the run has ended since its living router last wrote."""
    info = discovery.read(run)
    if info is None or info.is_stale():
        return False
    try:
        ended = run.done.stat().st_mtime_ns
    except FileNotFoundError:
        return False
    path = annals_path(run)
    return not path.exists() or path.stat().st_mtime_ns < ended


class Bookmark(msgspec.Struct, kw_only=True):
    """Up to where the journal was read: rows up to ``alert`` and ``reply``; ``replies`` may still change."""

    alert: int = 0
    reply: int = 0
    replies: list[str] = []


class Annalist:
    """Writes the file of one run. A damaged one is begun anew.

    Attributes:
        bookmark: what is to be learned next is what came after this or has changed since.
    """

    def __init__(self, run: RunDir) -> None:
        self._path = annals_path(run)
        try:
            before = read_annals(run)
        except HpcError as error:
            log.error("%s", error)
            before = None
        self._alerts = {alert.alert: alert for alert in before.alerts} if before is not None else {}
        self._replies = {reply.guidance: reply for reply in before.replies} if before is not None else {}
        self.bookmark = Bookmark()

    def learn_alerts(self, alerts: Iterable[AlertFact], last: int) -> None:
        """Take in alerts that are new or have changed; ``last``: the newest row that was read."""
        self._alerts |= {one.alert: one for one in alerts}
        self.bookmark.alert = max(self.bookmark.alert, last)

    def learn_replies(self, replies: Sequence[ReplyFact], last: int) -> None:
        """Take in replies that are new or may have changed; ``last``: the newest row that was read."""
        self._replies |= {one.guidance: one for one in replies}
        self.bookmark.reply = max(self.bookmark.reply, last)
        self.bookmark.replies = [one.guidance for one in replies if one.state in UNSETTLED]

    def write(self, run: str, *, since: float, until: float) -> None:
        """Replace the file by what is known now; times are in Unix seconds.

        Raises:
            HpcError: it cannot be written.
        """
        whole = Annals(
            run=run, since=since, until=until, alerts=list(self._alerts.values()), replies=list(self._replies.values())
        )
        # all of it is in the journal, so a crash of the machine may cost the newest version
        files.write_bytes(self._path, msgspec.json.encode(whole) + b"\n", durable=False)
