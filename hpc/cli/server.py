"""``hpc server``: launch vLLM servers, watch, read and stop them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option
from hpc.cli.plan import print_plan

if TYPE_CHECKING:
    from hpc.rundir import RunDir
    from hpc.serving.overview import ReplicaRow

COLUMNS = ["run", "server", "replica", "model", "state", "where", "job"]
FOLLOW_SECONDS = 0.5
replica_option = click.option("--replica", type=click.IntRange(min=0), default=0, show_default=True)


@click.group(invoke_without_command=True)
@runs_option
@click.pass_context
def server(ctx: click.Context, runs_root: Path) -> None:
    """Launch vLLM servers and watch them. Without a verb: list.

    Example: hpc server launch server=vllm model=custom model.name=m model.path=/models/m
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, runs_root=runs_root)


@server.command()
@click.argument("overrides", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print the batch scripts and the resolved configuration; submit nothing.")
@json_option
def launch(overrides: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Launch the replicas of one server as jobs, in a run directory of their own.

    Repeating the command with the same run.name and configuration launches it only if it is gone.

    \b
    Examples:
      hpc server launch cluster=local                  # the tiny policy on this machine's CPU
      hpc server launch runtime=cuda server=vllm model=custom model.name=policy model.path=/models/m
    Episodes use it with: server=external server.name=NAME server.run=DIRECTORY
    """
    from hpc.config import compose
    from hpc.launch import launch_server

    made = launch_server(compose("server", overrides), overrides=overrides, dry_run=dry_run)
    if dry_run:
        print_plan(made, as_json)
        return
    if as_json:
        emit_json(made.summary())
        return
    for line in made.describe()[:-1]:
        click.echo(line, err=True)
    click.echo(f"next: hpc server status {_named(made.run)}", err=True)
    click.echo(made.run.root)


@server.command("list")
@runs_option
@click.option("--all", "everything", is_flag=True, help="Servers that have ended, too.")
@json_option
def list_(runs_root: Path, everything: bool = False, as_json: bool = False) -> None:
    """List the servers of all runs: PENDING, LAUNCHING, READY, DEGRADED, DRAINING, FAILED, SHUTDOWN.

    Example: hpc server list --all
    """
    from hpc.rundir import runs_under

    rows = _rows([run for run in sorted(runs_under(runs_root), key=lambda run: run.name) if _has_servers(run)])
    _show([row for row in rows if everything or row.state != "SHUTDOWN"], as_json)


@server.command()
@click.argument("run_name", required=False, metavar="[RUN]")
@runs_option
@json_option
def status(run_name: str | None, runs_root: Path, as_json: bool) -> None:
    """Show the replicas of RUN and what they are doing (the newest run without a name).

    Example: hpc server status my-server
    """
    from hpc.serving import preflight
    from hpc.serving.probe import Prober

    run = find_run(run_name, runs_root)
    _config(run)
    rows = _rows([run])
    if not as_json:
        _show(rows, as_json=False)
    key = preflight.api_key(_config(run)) if any(row.url for row in rows) else ""
    values = []
    for row in rows:
        metrics = None
        if row.url:
            prober = Prober(row.url, row.model, api_key=key)
            metrics = prober.metrics()
            prober.close()
        values.append({**_value(row), "metrics": metrics})
        if metrics is not None and not as_json:
            hits = metrics.prefix_hits / metrics.prefix_queries if metrics.prefix_queries else 0.0
            click.echo(
                f"{row.server}/{row.replica}: {metrics.running:g} running, {metrics.waiting:g} waiting, "
                f"cache {metrics.cache_usage:.0%} full, {hits:.0%} of prompt tokens reused, "
                f"{metrics.generated:g} tokens generated",
                err=True,
            )
    if as_json:
        import msgspec

        emit_json(msgspec.to_builtins(values))


@server.command()
@click.argument("run_name", required=False, metavar="[RUN]")
@runs_option
@replica_option
@click.option("-n", "--lines", type=click.IntRange(min=1), default=50, show_default=True, help="Last lines to print.")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is added; ^C ends it.")
def logs(run_name: str | None, runs_root: Path, replica: int, lines: int, follow: bool) -> None:
    """Print the end of vLLM's log of one replica of RUN.

    Example: hpc server logs my-server --replica 1 -f
    """
    from hpc.core.errors import UsageError

    run = find_run(run_name, runs_root)
    row = next((row for row in _rows([run]) if row.replica == replica), None)
    path = Path(row.log) if row is not None and row.log else None
    if path is None or not path.exists():
        raise UsageError(f"replica {replica} of {run.name} has not logged anything", f"hpc server status {_named(run)}")
    with path.open(errors="replace") as file:
        for line in file.readlines()[-lines:]:
            click.echo(line, nl=False)
        while follow:
            text = file.read()
            if text:
                click.echo(text, nl=False)
            else:
                time.sleep(FOLLOW_SECONDS)


@server.command()
@click.argument("run_name", metavar="RUN")
@runs_option
@json_option
def stop(run_name: str, runs_root: Path, as_json: bool) -> None:
    """Stop the servers of RUN: they finish the requests in flight and end.

    Example: hpc server stop my-server
    """
    from hpc import slurm

    run = find_run(run_name, runs_root)
    config = _config(run)
    stopped = slurm.cancel(run, [_job(config.name)])
    if as_json:
        emit_json({"run": run.name, "server": config.name, "stopped": stopped})
        return
    click.echo(f"asked {stopped} job{'s' if stopped != 1 else ''} of server {config.name} to stop", err=True)


# ---- parts ------------------------------------------------------------------------------------


def _job(server_name: str) -> str:
    """The job under which `hpc.launch` submits a server's replicas."""
    return f"serve-{server_name}"


def _has_servers(run: RunDir) -> bool:
    """Whether a run starts servers of its own; one that is damaged must not hide the others."""
    from hpc.core.errors import HpcError
    from hpc.slurm import jobs_of

    try:
        jobs_of(run)
        server_config = run.read_config().get("server")
    except HpcError as error:
        click.echo(f"{run.name} is damaged: {error.message}", err=True)
        return False
    return isinstance(server_config, dict) and server_config.get("kind") == "vllm"


def _config(run: RunDir) -> Any:
    import msgspec

    from hpc.config.server import ServerConfig
    from hpc.core.errors import UsageError

    value = run.read_config().get("server")
    config = msgspec.convert(value, ServerConfig) if value else None
    if config is None or config.kind == "external":
        raise UsageError(f"run {run.name} has no server of its own", "hpc server list")
    return config


def _rows(runs: list[RunDir]) -> list[ReplicaRow]:
    """The replicas of runs that start servers of their own; one question to the scheduler for all."""
    from hpc import slurm
    from hpc.serving.overview import Scheduled, server_rows

    elements = slurm.states_of(runs)
    rows = []
    for run in runs:
        job = _job(_config(run).name)
        rows += server_rows(
            run,
            {
                element.index: Scheduled(element.state, element.reason, element.job_id)
                for element in elements[run.root.as_posix()]
                if element.job == job
            },
        )
    return rows


def _show(rows: list[ReplicaRow], as_json: bool) -> None:
    if as_json:
        emit_json([_value(row) for row in rows])
        return
    emit_table(COLUMNS, [_cells(row) for row in rows], empty="no servers: start one with `hpc server launch`")


def _value(row: ReplicaRow) -> dict[str, Any]:
    import msgspec

    value: dict[str, Any] = msgspec.to_builtins(row)
    return value


def _cells(row: ReplicaRow) -> list[str]:
    state = f"{row.state}({row.reason})" if row.reason else row.state
    return [row.run, row.server, str(row.replica), row.model, state, row.url or row.host, row.job_id]


def _named(run: RunDir) -> str:
    """How to name a run on the command line."""
    return run.name if run.root.parent == Path("runs").absolute() else str(run.root)
