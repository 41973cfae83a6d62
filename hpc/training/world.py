"""How the ranks of a training find each other: through a file in the run directory."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import msgspec
from torch._C._distributed_c10d import TCPStore

from hpc.core import files
from hpc.core.errors import HpcError

MEET_SECONDS = 600.0
"""How long ranks wait for each other: nodes of one job may start minutes apart."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Which rank this process is, and where the others are found.

    ``meeting`` is a file that the first rank writes: its host and port. It belongs to one start of one
    job, so that nobody meets the dead. ``host`` is how the other ranks reach this node.
    """

    rank: int
    world: int
    local_rank: int
    meeting: Path
    host: str = "127.0.0.1"


def meet(place: Place) -> TCPStore:
    """A store that all ranks share. The first rank lets the system choose a free port, so that none can clash.

    Raises:
        HpcError: the others did not come.
    """
    timeout = timedelta(seconds=MEET_SECONDS)
    if place.rank == 0:
        store = TCPStore(place.host, 0, place.world, is_master=True, timeout=timeout, wait_for_workers=False)
        files.write_json(place.meeting, {"host": place.host, "port": store.port})
        return store
    deadline = time.monotonic() + MEET_SECONDS
    while not place.meeting.exists():
        if time.monotonic() > deadline:
            raise HpcError(f"rank {place.rank} did not find the first rank at {place.meeting}", "see its log")
        time.sleep(0.05)
    where = files.read_json(place.meeting)
    return TCPStore(str(where["host"]), int(where["port"]), place.world, is_master=False, timeout=timeout)
