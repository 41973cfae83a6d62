"""``hpc eval submit``: evaluate models on held-out tasks, as runs of episodes that can be compared."""

from __future__ import annotations

from pathlib import Path

import click

from hpc.cli.output import emit_json, find_run, json_option, runs_option
from hpc.cli.plan import print_plan


@click.command("watch")
@click.argument("run_name", metavar="RUN")
@click.argument("overrides", nargs=-1)
@runs_option
@click.option(
    "--servers", type=click.IntRange(min=1), default=1, show_default=True, help="Checkpoints evaluated at a time."
)
def watch_command(run_name: str, overrides: tuple[str, ...], runs_root: Path, servers: int) -> None:
    """Follow the training RUN and evaluate each of its checkpoints once it is whole.

    Ends when the training is over and every checkpoint is evaluated; may be interrupted and repeated. A checkpoint
    that training removes before its turn (train.checkpoints.keep) is not evaluated.

    Example: hpc eval watch guided eval.name=curve eval.tasks=10 eval.seeds=2
    """
    from hpc.config import compose
    from hpc.launch_eval import watch_training

    config = compose("eval", [f"eval.root={runs_root}", *overrides])
    run = find_run(run_name, runs_root)
    names: list[str] = []
    for what, subject in watch_training(config, run, servers=servers, overrides=overrides):
        name = f"{config.eval.name}-{subject.label}"
        click.echo(f"{what}: {name}", err=True)
        names += [name] if what == "over" else []
    if names:
        click.echo(f"next: hpc eval table {' '.join(names)}", err=True)


@click.command("submit")
@click.argument("arguments", nargs=-1, required=True, metavar="MODEL… eval.name=NAME [OVERRIDES]")
@runs_option
@click.option("--dry-run", is_flag=True, help="Print the batch scripts and configurations; export and submit nothing.")
@json_option
def submit_command(arguments: tuple[str, ...], runs_root: Path, dry_run: bool, as_json: bool) -> None:
    """Play the same held-out tasks under the same seeds with each MODEL, nobody advising.

    MODEL is a training's checkpoint (RUN, RUN@STEP, RUN@best, RUN@all), a folder of weights, shipped:NAME, or an
    endpoint NAME=http://HOST:PORT/v1. Each becomes a run NAME-<model> with a server of its own, which ends with its
    last episode. Repeating the command submits only what is missing; `hpc eval compare` reads the runs.

    \b
    Examples:
      hpc eval submit shipped:minilab-tiny guided@best own@best eval.name=first cluster=local
      hpc eval submit guided@all eval.name=curve eval.tasks=20 eval.seeds=3 cluster=slurm
      hpc eval submit models/mine eval.name=first --dry-run
    """
    from hpc.config import compose
    from hpc.core.errors import UsageError
    from hpc.launch_eval import URL, launch_evaluation, subjects_of

    overrides = [
        word for word in arguments if "=" in word and not Path(word).exists() and not URL.match(word.partition("=")[2])
    ]
    targets = [word for word in arguments if word not in overrides]
    if not targets:
        raise UsageError("no model to evaluate", "name checkpoints (RUN@STEP), folders of weights or endpoints")
    config = compose("eval", [f"eval.root={runs_root}", *overrides])
    launches = launch_evaluation(config, subjects_of(targets, runs_root), overrides=overrides, dry_run=dry_run)
    if dry_run:
        for launch in launches:
            print_plan(launch, as_json)
        return
    names = [launch.run.name for launch in launches]
    if as_json:
        emit_json([launch.summary() for launch in launches])
        return
    for launch in launches:
        for line in launch.describe()[:-1]:
            click.echo(line, err=True)
        if not launch.jobs:
            click.echo(f"{launch.run.name}: nothing is missing", err=True)
    at = f" --runs {runs_root}" if runs_root.absolute() != Path("runs").absolute() else ""
    verb = "compare" if len(names) > 1 else "table"
    click.echo(f"next: hpc eval {verb} {' '.join(names)}{at}", err=True)
    for launch in launches:
        click.echo(launch.run.root)
