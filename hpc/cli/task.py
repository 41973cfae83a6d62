"""``hpc task``: which tasks there are, what the agent is told, what an expert knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option

if TYPE_CHECKING:
    from hpc.config.task import TaskConfig


@click.group(invoke_without_command=True)
@click.pass_context
def task(ctx: click.Context) -> None:
    """List tasks, show one, print an expert sheet. Without a verb: list.

    Example: hpc task show task=minilab_eval --instance 3
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@task.command("list")
@json_option
def list_(as_json: bool = False) -> None:
    """List the options of the configuration group `task`.

    Example: hpc task list
    """
    from hpc.config import compose, list_configs, to_builtins

    options = list_configs().get("task", [])
    rows = [{"task": name, **to_builtins(compose("episodes", [f"task={name}"]).task)} for name in options]
    if as_json:
        emit_json(rows)
        return
    columns = ["task", "family", "split", "seed", "budget"]
    emit_table(columns, [[row[column] for column in columns] for row in rows])


@task.command()
@click.argument("overrides", nargs=-1)
@click.option("--instance", type=click.IntRange(min=0), default=0, show_default=True, help="Which instance.")
@json_option
def show(overrides: tuple[str, ...], instance: int, as_json: bool) -> None:
    """Print what the agent is told of an instance.

    Example: hpc task show task=minilab_eval --instance 3
    """
    from hpc.config import compose
    from hpc.tasks import load_task

    chosen = load_task(compose("episodes", overrides).task, instance)
    description = chosen.description()
    if as_json:
        emit_json({"id": chosen.id, "family": chosen.family, "split": chosen.split, "description": description})
        return
    click.echo(description)


@task.command()
@click.argument("overrides", nargs=-1)
@click.option("--run", "run_name", help="Sheet of this run's episodes (a name or a path) instead of OVERRIDES.")
@click.option("--episode", metavar="INDEX|ID", help="Only what this episode needs, in its order.")
@runs_option
@json_option
def sheet(
    overrides: tuple[str, ...], run_name: str | None, episode: str | None, runs_root: Path, as_json: bool
) -> None:
    """Print the expert sheet: every hidden fact as advice, and the values of each episode.

    It answers every question the agent may have: keep it from the agent.

    \b
    Examples:
      hpc task sheet --run demo
      hpc task sheet --run demo --episode 3
      hpc task sheet task=minilab_eval run.name=night run.episodes=32 --json
    """
    from hpc import tasks
    from hpc.core.errors import UsageError

    if run_name is not None and overrides:
        raise UsageError("--run and overrides exclude each other", "a run has its own configuration")
    config, name, count, first = _of_run(run_name, runs_root) if run_name is not None else _of_overrides(overrides)
    made = tasks.sheet(config, name, count, first)
    facts = {fact["value"]: fact for fact in made["facts"]}
    if episode is not None:
        episode = f"{name}-{int(episode):05d}" if episode.isdecimal() else episode
        if episode not in made["episodes"]:
            raise UsageError(f"no episode {episode!r} in {name!r}", f"they are {name}-00000 to {name}-{count - 1:05d}")
        made["episodes"] = {episode: made["episodes"][episode]}
        made["facts"] = [facts[value] for value in made["episodes"][episode]]
    if as_json:
        emit_json(made)
        return
    emit_table(
        ["value", "knob", "option", "advice"],
        [[fact["value"], fact["knob"], fact["option"], fact["advice"]] for fact in made["facts"]],
    )


def _of_run(run_name: str, runs_root: Path) -> tuple[TaskConfig, str, int, int]:
    """Task configuration, run name, number of episodes and first instance of a run."""
    import msgspec

    from hpc.config.task import TaskConfig
    from hpc.core.errors import ConfigError

    run = find_run(run_name, runs_root)
    stored = run.read_config()
    try:
        config = msgspec.convert(stored["task"], TaskConfig)
        return config, run.name, int(stored["run"]["episodes"]), int(stored["run"]["first"])
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"{run.config} is not of an episodes run: {error}", "name a run of `hpc run ls`") from error


def _of_overrides(overrides: tuple[str, ...]) -> tuple[TaskConfig, str, int, int]:
    from hpc.config import compose

    config = compose("episodes", overrides)
    return config.task, config.run.name or "episodes", config.run.episodes, config.run.first
