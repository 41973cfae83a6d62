"""What can be submitted: a job of elements, what it waits for, and what came of the submission."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from hpc.config.cluster import Resources

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Dependency(msgspec.Struct, frozen=True):
    """Wait for another job of the same run."""

    job: str
    kind: Literal["afterok", "afterany", "afternotok", "after"] = "afterok"
    """afterok: all its elements succeeded; afterany: all have ended; afternotok: all ended and
    failed; after: all have started."""


class JobSpec(msgspec.Struct, frozen=True):
    """A job to submit: the same kind of work for every payload.

    Args:
        name: name of the job within its run, such as ``episodes``.
        kind: a key of ``jobs.KINDS``, or ``module:Class``.
        payloads: one mapping per element: the fields of the kind's struct.
        resources: of one element; None: what the cluster's configuration says of the kind.
        throttle: so many elements run at the same time; None: as many as fit.
        after: jobs to wait for.
        hide_env: variables that the job must not inherit.
    """

    name: str
    kind: str
    payloads: list[dict[str, Any]]
    resources: Resources | None = None
    throttle: int | None = None
    after: list[Dependency] = []
    hide_env: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a job's name is {self.name!r}, it may hold letters, digits and . _ - only")
        if not self.payloads:
            raise ValueError(f"the job {self.name} has no elements")
        if self.throttle is not None and self.throttle < 1:
            raise ValueError(f"the throttle of {self.name} is {self.throttle}, it must be 1 or more")


class SubmittedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the scheduler took it."""

    name: str
    backend: Literal["slurm", "local"]
    ids: list[str]
    """One id per array chunk."""
    elements: int
    """How many elements were submitted."""
