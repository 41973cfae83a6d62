"""``hpc router``: start, watch and stop a run's guidance router."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option
from hpc.cli.plan import tell_launch

if TYPE_CHECKING:
    from hpc.rundir import RunDir


@click.group(invoke_without_command=True)
@runs_option
@click.pass_context
def router(ctx: click.Context, runs_root: Path) -> None:
    """Start, watch and stop a run's guidance router. Without a verb: the status of the newest run's.

    Example: hpc router status my-run
    """
    ctx.default_map = {verb: {"runs_root": runs_root} for verb in router.commands}
    if ctx.invoked_subcommand is None:
        ctx.invoke(status, run_name=None, runs_root=runs_root)


@router.command()
@click.argument("run_name", metavar="RUN")
@runs_option
@click.option("--foreground", is_flag=True, help="Run it in this terminal instead of as a job; ^C ends it.")
@click.option(
    "--annotators",
    type=click.Choice(["slack", "console"]),
    help="With --foreground: meet annotators this way instead of the run's own.",
)
@click.option("--standby", is_flag=True, help="Wait until the active router is gone, then serve in its place.")
@json_option
def start(
    run_name: str, runs_root: Path, foreground: bool, annotators: str | None, standby: bool, as_json: bool
) -> None:
    """Start the router of RUN again, after it was stopped or lost. Nothing it knew is lost.

    \b
    Examples:
      hpc router start my-run
      hpc router start my-run --standby
      hpc router start my-run --foreground --annotators console
    """
    from hpc.core.errors import UsageError

    run = find_run(run_name, runs_root)
    if foreground:
        _serve(run, annotators, standby)
        return
    if annotators is not None:
        raise UsageError("--annotators is for a router in the foreground", "add --foreground")
    from hpc.launch import launch_router

    launch = launch_router(run, standby=standby)
    tell_launch(launch, as_json)


@router.command()
@click.argument("run_name", required=False, metavar="[RUN]")
@runs_option
@json_option
def status(run_name: str | None, runs_root: Path, as_json: bool = False) -> None:
    """Show whether the router of RUN lives, what it has done and what waits (the newest run without a name).

    Example: hpc router status my-run
    """
    value = _status(find_run(run_name, runs_root))
    if as_json:
        emit_json(value)
        return
    counters = value.pop("counters", {})
    value["standbys"] = (
        ", ".join(f"{one['host']} ({one['job_id'] or one['pid']})" for one in value["standbys"]) or "none"
    )
    emit_table(["field", "value"], [*value.items(), *counters.items()])


@router.command()
@click.argument("run_name", required=False, metavar="[RUN]")
@runs_option
def stop(run_name: str | None, runs_root: Path) -> None:
    """End the router of RUN. Episodes go on; alerts and replies wait for the next router.

    Example: hpc router stop my-run
    """
    from hpc.router.client import InboxClient

    run = find_run(run_name, runs_root)
    with InboxClient(run) as client:
        client.stop()
    click.echo(f"the router of {run.name} ends; start it again with: hpc router start {run.name}", err=True)


def _serve(run: RunDir, annotators: Any, standby: bool) -> None:
    import asyncio
    import signal
    from collections.abc import Callable

    from hpc.core.errors import RouterSuperseded
    from jobs.router import RouterJob

    def on_start(stop: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        doing = "standing by for" if standby else "serving"
        click.echo(f"{doing} {run.name}; answer alerts with: hpc inbox --run {run.name}", err=True)

    outcome = asyncio.run(RouterJob(annotators=annotators, standby=standby).serve(run, on_start))
    if outcome == "superseded":
        raise RouterSuperseded(f"another router has taken {run.name} over", f"see `hpc router status {run.name}`")
    click.echo("the run is done" if outcome == "done" else "stopped", err=True)


def _status(run: RunDir) -> dict[str, Any]:
    """What the router's own files say; they outlive it."""
    import msgspec

    from hpc.core import files
    from hpc.router import standbys
    from hpc.router.service import STATUS
    from hpc.wire import discovery

    info = discovery.read(run)
    path = run.router_dir / STATUS
    if info is None:
        state = "ended" if path.exists() else "never started"
    else:
        state = "silent" if info.is_stale() else "running"
    value: dict[str, Any] = {"run": run.name, "state": state}
    if info is not None:
        value |= {**msgspec.to_builtins(info), "heartbeat_age": round(time.time() - info.heartbeat, 1)}
    value["standbys"] = [msgspec.to_builtins(standby) for standby in standbys.waiting(run)]
    return value | (files.read_json(path) if path.exists() else {})
