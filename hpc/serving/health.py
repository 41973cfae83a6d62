"""What to do about what a server shows. Pure: events in, a decision out."""

from __future__ import annotations

from typing import Literal

import msgspec

from hpc.serving.registry import StateName

Decision = Literal["keep", "publish", "withdraw", "restart", "fail"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When a server is withdrawn, restarted and given up; fields as in `ServerConfig`."""

    degraded_after: int = 2
    restart_after: int = 4
    max_restarts: int = 3


class Health:
    """State of one replica over the lives of its child process.

    A server that never generated a token is given up at its first failure: a wrong path or missing
    package does not mend itself. One that did is restarted, up to a limit.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.state: StateName = "LAUNCHING"
        self.reason = ""
        self.restarts = 0
        self._failures = 0
        self._was_ready = False
        self.booting = True

    def answered(self) -> Decision:
        """A probe was answered."""
        self._failures = 0
        self.booting = False
        self._was_ready = True
        if self.state == "READY":
            return "keep"
        self.state, self.reason = "READY", ""
        return "publish"

    def unanswered(self, reason: str) -> Decision:
        """A probe failed. While the server boots, that says nothing."""
        if self.booting:
            return "keep"
        self._failures += 1
        if self._failures >= self.limits.restart_after:
            return self.broken(f"{self._failures} probes failed, the last: {reason}")
        if self._failures >= self.limits.degraded_after and self.state == "READY":
            self.state, self.reason = "DEGRADED", f"{self._failures} probes failed, the last: {reason}"
            return "withdraw"
        return "keep"

    def broken(self, reason: str) -> Decision:
        """The server ended, hangs or did not boot in time."""
        if not self._was_ready or self.restarts >= self.limits.max_restarts:
            limit = f" (after {self.restarts} restarts)" if self.restarts else ""
            return self.hopeless(f"{reason}{limit}")
        self.restarts += 1
        self._failures = 0
        self.booting = True
        self.state = "DEGRADED"
        self.reason = f"{reason}; restart {self.restarts} of {self.limits.max_restarts}"
        return "restart"

    def hopeless(self, reason: str) -> Decision:
        """Something that no restart mends."""
        self.state, self.reason = "FAILED", reason
        return "fail"
