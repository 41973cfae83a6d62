"""``hpc train``: train models on Megatron-core, follow it, go on with it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option
from hpc.cli.plan import print_plan, tell_launch
from hpc.cli.train_rounds import lead, rounds_command

if TYPE_CHECKING:
    from hpc.rundir import RunDir

COLUMNS = ["step", "of", "loss", "lr", "norm", "tokens/s", "skipped", "validation", "checkpoint", "state"]
REFRESH_SECONDS = 0.5


@click.group(invoke_without_command=True)
@runs_option
@click.pass_context
def train(ctx: click.Context, runs_root: Path) -> None:
    """Train models on Megatron-core. Without a verb: the status of the newest training.

    Example: hpc train sft model=minilab-tiny train=tiny train.dataset=datasets/guided
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(status, run_name=None, runs_root=runs_root)


@train.command()
@click.argument("overrides", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print the batch script and the resolved configuration; submit nothing.")
@click.option("--watch", is_flag=True, help="Stay and show the progress until the training is over.")
@json_option
def sft(overrides: tuple[str, ...], dry_run: bool, watch: bool, as_json: bool) -> None:
    """Fine-tune a model on the trained tokens of a dataset, as a job.

    Repeating the command with the same run.name and configuration goes on from the last whole checkpoint.

    \b
    Examples:
      hpc train sft train=tiny train.dataset=datasets/guided cluster=local --watch
      hpc train sft model=custom model.name=m model.path=/models/m train.dataset=datasets/guided \\
        layout.tensor=4 train.ranks_per_node=8 cluster=slurm
    """
    _launch([*overrides, "train.method=sft"], overrides, dry_run=dry_run, watch=watch, as_json=as_json)


@train.command()
@click.argument("overrides", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print the batch script and the resolved configuration; submit nothing.")
@click.option("--watch", is_flag=True, help="Stay and show the progress until the training is over.")
@json_option
def grpo(overrides: tuple[str, ...], dry_run: bool, watch: bool, as_json: bool) -> None:
    """GRPO in rounds: groups of rollouts, an update, its weights served, and again.

    Leads the rounds from here until they are over: each is a run of episodes (NAME-001-rollouts) and a training
    (NAME-001-update), as jobs. Interrupted, or after an error, repeating the command goes on with what is
    missing; a higher rounds.count adds rounds. With train.dataset it makes the update of one round alone, as a
    job, on rollouts that are stored already.

    \b
    Examples:
      hpc train grpo cluster=local run.name=rl                 # the tiny policy on this machine's CPU
      hpc train grpo cluster=slurm run.name=rl rounds.tasks=32 rounds.group=16 runtime=cuda server=vllm train=grpo \\
        model=custom model.name=m model.path=/models/m agent=react
      hpc train grpo model=custom model.name=m model.path=models/round-6 train.dataset=datasets/rollouts-7
    """
    if any(override.lstrip("+").startswith("train.dataset=") for override in overrides):
        wanted = ["train=grpo", *overrides, "train.method=grpo"]
        _launch(wanted, overrides, dry_run=dry_run, watch=watch, as_json=as_json)
        return
    lead(overrides, dry_run=dry_run, as_json=as_json)


def _launch(wanted: Sequence[str], overrides: Sequence[str], *, dry_run: bool, watch: bool, as_json: bool) -> None:
    from hpc.config import compose
    from hpc.launch_train import launch_training

    launch = launch_training(compose("train", wanted), overrides=overrides, dry_run=dry_run)
    if dry_run:
        print_plan(launch, as_json)
        return
    tell_launch(launch, as_json)
    if watch:
        _watch(launch.run)
    elif not as_json:
        click.echo(launch.run.root)


@train.command()
@click.argument("run_name", required=False, metavar="[RUN]")
@runs_option
@click.option("--watch", is_flag=True, help="Keep a progress bar on the screen until the training is over.")
@json_option
def status(run_name: str | None, runs_root: Path, watch: bool = False, as_json: bool = False) -> None:
    """Show how far a training is (the newest one without a name).

    Example: hpc train status my-run --watch
    """
    run = _find(run_name, runs_root)
    if watch and not as_json:
        _watch(run)
        return
    now = _progress(run)
    if as_json:
        emit_json({"run": run.name, **now})
        return
    emit_table(COLUMNS, [[_cell(now[column]) for column in COLUMNS]])
    if now["reason"]:
        click.echo(now["reason"], err=True)


@train.command()
@click.argument("run_name", metavar="RUN")
@runs_option
@click.option("--follow", "-f", is_flag=True, help="Go on printing as the log grows.")
def logs(run_name: str, runs_root: Path, follow: bool) -> None:
    """Print the job log of a training.

    Example: hpc train logs my-run --follow
    """
    from hpc.launch_train import TRAIN
    from hpc.slurm import tail_log

    for line in tail_log(_find(run_name, runs_root), TRAIN, 0, follow=follow):
        click.echo(line, nl=False)


@train.command()
@click.argument("run_name", metavar="RUN")
@runs_option
@click.option("--last", type=int, help="Only so many of the newest lines.")
@json_option
def metrics(run_name: str, runs_root: Path, last: int | None, as_json: bool) -> None:
    """Print the figures of every step of a training.

    Example: hpc train metrics my-run --last 20
    """
    from hpc.training.metrics import read_metrics

    rows = list(read_metrics(_find(run_name, runs_root).metrics, "step"))[-(last or 0) :]
    if as_json:
        emit_json(rows)
        return
    names = ["step", "epoch", "loss", "lr", "grad_norm", "trained_tokens", "trained_share", "row_fill"]
    names += ["tokens_per_second", "mfu", "verdict"]
    emit_table(names, [[_cell(row.get(name)) for name in names] for row in rows])


@train.command()
@click.argument("run_name", metavar="RUN")
@runs_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def cancel(run_name: str, runs_root: Path, yes: bool) -> None:
    """Stop a training; it saves a checkpoint first. Repeating its `hpc train sft` goes on.

    Example: hpc train cancel my-run --yes
    """
    from hpc import slurm

    run = _find(run_name, runs_root)
    if not yes:
        click.confirm(f"Stop the training of {run.name}?", abort=True)
    click.echo(f"cancelled {slurm.cancel(run)} jobs of {run.name}", err=True)


train.add_command(rounds_command)


# ---- parts ------------------------------------------------------------------------------------


def _find(name: str | None, root: Path) -> RunDir:
    """A training by name, or the newest one."""
    from hpc.core.errors import UsageError
    from hpc.launch_train import TRAIN, training_config
    from hpc.rundir import runs_under

    if name is None:
        name = next((str(run.root) for run in runs_under(root) if run.elements(TRAIN).exists()), None)
        if name is None:
            raise UsageError(f"no training under {root}", "start one with `hpc train sft`, or name its folder")
    run = find_run(name, root)
    training_config(run)
    return run


def _progress(run: RunDir) -> dict[str, Any]:
    """The newest figures and the state of the job."""
    from hpc.launch_train import TRAIN
    from hpc.slurm import states
    from hpc.training.metrics import read_metrics
    from hpc.training.shelf import shelf_of

    newest: dict[str, dict[str, Any]] = {}
    for record in read_metrics(run.metrics):
        newest[record["kind"]] = record
    step = newest.get("step", {})
    checkpoint = shelf_of(run).latest()
    element = next(iter(states(run, TRAIN)), None)
    return {
        "step": step.get("step", 0),
        "of": newest.get("data", {}).get("steps"),
        "loss": step.get("loss"),
        "lr": step.get("lr"),
        "norm": step.get("grad_norm"),
        "tokens/s": step.get("tokens_per_second"),
        "skipped": step.get("skipped", 0),
        "validation": newest.get("validation", {}).get("loss"),
        "checkpoint": checkpoint.step if checkpoint is not None else None,
        "state": element.state if element is not None else "",
        "reason": element.reason if element is not None else "",
    }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _watch(run: RunDir) -> None:
    """A progress bar on stderr until the training is over; into a pipe, a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from hpc.core.errors import JobFailed
    from hpc.slurm import LIVE

    columns = [TextColumn(run.name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("waiting", total=None)
        while True:
            now = _progress(run)
            figures = f"loss {_cell(now['loss'])}  {_cell(now['tokens/s'])} tokens/s  {now['state']}"
            bar.update(task, completed=now["step"], total=now["of"], description=figures)
            if now["state"] not in LIVE and now["state"] != "UNKNOWN":
                break
            time.sleep(REFRESH_SECONDS)
    if now["state"] != "DONE":
        raise JobFailed(
            f"the training of {run.name} ended as {now['state']}: {now['reason']}", f"hpc train logs {run.name}"
        )
    if not sys.stderr.isatty():
        click.echo(f"trained {now['step']} steps, loss {_cell(now['loss'])}", err=True)
