"""What a person wants to know of servers: one row per replica. Pure but for reading the run directory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from hpc.rundir import RunDir
from hpc.serving import registry
from hpc.serving.registry import STALE_AFTER, Endpoint, ServerState

WAITING = ("PENDING", "REQUEUED", "BLOCKED")
"""The scheduler's states in which a replica's job does not run."""
ENDED = ("FAILED", "TIMEOUT", "CANCELLED", "PREEMPTED", "NODE_FAIL")
AT_WORK = ("LAUNCHING", "READY", "DEGRADED")


class Scheduled(NamedTuple):
    """What the scheduler knows of a replica's job."""

    state: str
    reason: str = ""
    job_id: str = ""


class ReplicaRow(msgspec.Struct, frozen=True, kw_only=True):
    """One replica. ``state`` is PENDING, LAUNCHING, READY, DEGRADED, DRAINING, FAILED or SHUTDOWN."""

    run: str
    server: str
    replica: int
    model: str
    state: str
    reason: str = ""
    url: str = ""
    host: str = ""
    job_id: str = ""
    log: str = ""


def server_rows(
    run: RunDir, scheduled: Mapping[int, Scheduled] | None = None, now: float | None = None
) -> list[ReplicaRow]:
    """The replicas of a run's server; none when its server is an external one.

    Args:
        scheduled: replica -> what the scheduler knows of its job.
        now: Unix seconds; None: the present.
    """
    config = run.read_config()
    server: dict[str, Any] = config.get("server") or {}
    if not server or server.get("kind") == "external":
        return []
    name = str(server["name"])
    states = registry.read_states(run, name)
    endpoints = {endpoint.replica: endpoint for endpoint in registry.read_endpoints(run, name)}
    rows = []
    for replica in range(int(server["replicas"])):
        said, endpoint = states.get(replica), endpoints.get(replica)
        job = (scheduled or {}).get(replica)
        state, reason = judge(said, endpoint, job, time.time() if now is None else now)
        rows.append(
            ReplicaRow(
                run=run.name,
                server=name,
                replica=replica,
                model=str(config["model"]["name"]),
                state=state,
                reason=reason,
                url=endpoint.url if endpoint is not None and state in ("READY", "DRAINING") else "",
                host=said.host if said is not None else "",
                job_id=job.job_id if job is not None else said.job_id if said is not None else "",
                log=said.log if said is not None else "",
            )
        )
    return rows


def judge(
    said: ServerState | None, endpoint: Endpoint | None, scheduled: Scheduled | None, now: float
) -> tuple[str, str]:
    """State and reason of a replica from what it said last, what it publishes and what the scheduler
    knows of its job. A job that was killed cannot say so itself. Pure."""
    job, why, _ = scheduled or Scheduled("")
    live = endpoint is not None and not endpoint.is_stale(now)
    if live and endpoint is not None and endpoint.state == "DRAINING":
        return "DRAINING", said.reason.removeprefix("draining: ") if said is not None else ""
    if live and said is not None and said.state == "READY":
        return "READY", ""
    if job in WAITING:
        return "PENDING", why
    if said is None:
        if job in ENDED:
            return "FAILED", f"its job ended before it could start: {job.lower()} {why}".rstrip()
        return ("LAUNCHING", "") if job == "RUNNING" else ("PENDING", why or "its job has not started")
    if said.state in AT_WORK and job in ENDED:
        return "FAILED", f"its job was ended: {job.lower()} {why}".rstrip()
    if said.state == "READY":
        return "FAILED", f"no heartbeat for more than {STALE_AFTER:g} s"
    return said.state, said.reason
