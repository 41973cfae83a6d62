"""What a router leaves about alerts and replies: one JSON file, readable whether or not a router runs.

The journal belongs to the router's process alone, so statistics and labels ("false alarm") are read
from here. The file is replaced now and then while the router serves, and at its end; what it once
held stays in it, even when the journal was compacted since.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from hpc.core import files
from hpc.core.errors import HpcError
from hpc.router.stats import Annals
from hpc.rundir import RunDir

FILE = "annotators.json"

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


class Annalist:
    """Writes the file of one run. A damaged one is begun anew."""

    def __init__(self, run: RunDir) -> None:
        self._path = annals_path(run)
        try:
            before = read_annals(run)
        except HpcError as error:
            log.error("%s", error)
            before = None
        self._alerts = {alert.alert: alert for alert in before.alerts} if before is not None else {}
        self._replies = {reply.guidance: reply for reply in before.replies} if before is not None else {}

    def write(self, annals: Annals) -> None:
        """Bring the file up to date with what the journal holds.

        Raises:
            HpcError: it cannot be written.
        """
        self._alerts |= {alert.alert: alert for alert in annals.alerts}
        self._replies |= {reply.guidance: reply for reply in annals.replies}
        whole = msgspec.structs.replace(
            annals, alerts=list(self._alerts.values()), replies=list(self._replies.values())
        )
        # all of it is in the journal, so a crash of the machine may cost the newest version
        files.write_bytes(self._path, msgspec.json.encode(whole) + b"\n", durable=False)
