"""Which process this is, in words that outlive it, and whether such a process is certainly gone."""

from __future__ import annotations

import os
from pathlib import Path


def identity() -> str:
    """``boot/namespace/pid/start`` of this process: no other process ever has the same."""
    return f"{_machine()}/{os.getpid()}/{_start(os.getpid())}"


def is_gone(process: str) -> bool | None:
    """Whether the process of an `identity` has ended; None: it is not of this machine, so nobody here
    can tell."""
    machine, _, rest = process.rpartition("/")[0].rpartition("/")
    start = process.rpartition("/")[2]
    if not rest.isdigit() or machine != _machine():
        return None
    return _start(int(rest)) != start


def _machine() -> str:
    """This boot of this machine, and the numbering of processes that is in force here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def _start(pid: int) -> str:
    """When a process started, in ticks since boot; empty when it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
