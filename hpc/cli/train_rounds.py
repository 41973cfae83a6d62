"""``hpc train grpo`` in rounds: leading them, and what became of them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option
from hpc.cli.plan import print_plan

if TYPE_CHECKING:
    from hpc.evaluation.bootstrap import Estimate
    from hpc.evaluation.rounds import Round

COLUMNS = ["round", "weights", "reward", "episodes", "used", "steps", "ratio", "gap", "kl", "clipped", "norm", "time"]


def lead(overrides: Sequence[str], *, dry_run: bool, as_json: bool) -> None:
    """Lead the rounds that are missing, saying what happens."""
    from hpc.config import compose
    from hpc.launch_grpo import Leader, open_rounds, plan_rounds, rounds_of

    config = compose("grpo", overrides)
    if dry_run:
        for launch in plan_rounds(config):
            print_plan(launch, as_json)
        return
    run, config = open_rounds(config, overrides=overrides)
    click.echo(f"run directory: {run.root}", err=True)
    try:
        with _status(hidden=as_json) as tell:
            for done in Leader(run, config, tell=tell).lead():
                click.echo(_line(done, config.rounds.count), err=True)
    except KeyboardInterrupt:
        click.echo(f"left; jobs at work go on. Repeat the command to go on with {run.name}", err=True)
        raise
    _show(rounds_of(run), as_json)


@click.command("rounds")
@click.argument("run_name", required=False, metavar="[RUN]")
@runs_option
@json_option
def rounds_command(run_name: str | None, runs_root: Path, as_json: bool) -> None:
    """Show the rounds of a GRPO: the rewards of each version of the weights, and what its update was like.

    Example: hpc train rounds rl
    """
    from hpc.core.errors import UsageError
    from hpc.launch_grpo import rounds_of
    from hpc.rundir import runs_under

    if run_name is None:
        run_name = next((str(run.root) for run in runs_under(runs_root) if run.rounds.is_dir()), None)
        if run_name is None:
            raise UsageError(f"no rounds of GRPO under {runs_root}", "start some with `hpc train grpo`")
    _show(rounds_of(find_run(run_name, runs_root)), as_json)


def _show(rounds: list[Round], as_json: bool) -> None:
    import msgspec

    from hpc.evaluation.rounds import gain

    gained = gain(rounds)
    if as_json:
        emit_json({"rounds": msgspec.to_builtins(rounds), "gain": msgspec.to_builtins(gained)})
        return
    emit_table(COLUMNS, [_cells(each) for each in rounds], empty="no round is over yet")
    if gained is not None:
        click.echo(f"reward of the last quarter of rounds over that of the first: {_said(gained, '+')}", err=True)


def _cells(each: Round) -> list[Any]:
    figures = [each.ratio, each.gap, each.kl, each.clipped, each.grad_norm]
    shown = ["" if value is None else f"{value:.4g}" for value in figures]
    spent = time.strftime("%H:%M:%S", time.gmtime(sum(each.seconds.values())))
    return [each.number, each.version, _said(each.reward), each.episodes, each.used, each.steps, *shown, spent]


def _line(each: Round, count: int) -> str:
    what = f"{each.used} of {each.episodes} rollouts taught, {each.steps} steps"
    if each.update is None:
        what = "no group taught anything: the weights stay"
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in each.seconds.items())
    return f"round {each.number}/{count}  reward {_said(each.reward)} with {each.version}  {what}  ({spent})"


def _said(estimate: Estimate, sign: str = "") -> str:
    form = f"{sign}.3f"
    within = "" if estimate.low is None else f" [{estimate.low:{form}}, {estimate.high:{form}}]"
    return f"{estimate.value:{form}}{within}"


@contextlib.contextmanager
def _status(*, hidden: bool) -> Iterator[Callable[[str, int, int], None]]:
    """What is being done now, for people only."""
    if hidden or not sys.stderr.isatty():
        yield lambda what, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("starting", total=None)
        yield lambda what, done, of: shown.update(task, description=what, completed=done, total=of or None)
