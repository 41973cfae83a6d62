"""A router that kills itself with SIGKILL at one exact point: ``router_dying RUN POINT``.

``before:FACT`` and ``after:FACT`` are around the commit of the first batch that holds such a fact;
``reply`` is between the commit of an annotator's reply and everything that follows from it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable

from hpc.cli import main
from hpc.router.journal import JournalDesk
from hpc.router.service import Router
from hpc.router.state import Fact
from hpc.wire.inbox import Request, SendReply

run, point = sys.argv[1:3]
when, _, fact_name = point.partition(":")
record = JournalDesk.record


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def record_and_die(self: JournalDesk, facts: Iterable[Fact]) -> None:
    batch = list(facts)
    hit = any(type(fact).__name__ == fact_name for fact in batch)
    if hit and when == "before":
        die()
    record(self, batch)
    if hit:
        die()


answers = Router._answers


def answer_and_die(self: Router, requests: list[tuple[bytes, Request]]) -> list[tuple[bytes, bytes]]:
    said = answers(self, requests)
    if any(isinstance(request, SendReply) for _, request in requests):
        die()
    return said


if when == "reply":
    Router._answers = answer_and_die  # type: ignore[method-assign]
else:
    JournalDesk.record = record_and_die  # type: ignore[method-assign]
main(["-v", "router", "start", run, "--foreground"])
