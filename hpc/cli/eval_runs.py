"""Evaluated runs as ``hpc eval`` takes them: read, checked for what was trained on, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from hpc.cli.output import find_run, runs_option

if TYPE_CHECKING:
    from hpc.evaluation.bootstrap import Level
    from hpc.evaluation.pairs import Comparison
    from hpc.evaluation.results import Arm, Unscored
    from hpc.evaluation.seen import Seen
    from hpc.rundir import RunDir

SHOWN = 5
GATE_SAYS_NO = 5
WHOLE = "all"
"""Group of the rows that are of a whole run, where others are of its parts."""
Command = TypeVar("Command", bound=Callable[..., Any])


class Options(NamedTuple):
    """The options that all verbs share, with their defaults."""

    runs_root: Path
    success_at: float = 80.0
    over: Level = "tasks"
    unscored: Unscored = "leave-out"
    selection: str = ""
    allow_seen: bool = False


_DEFAULTS = Options._field_defaults
_OPTIONS = (
    runs_option,
    click.option(
        "--success-at",
        type=click.FloatRange(0, 100),
        default=_DEFAULTS["success_at"],
        show_default=True,
        metavar="SCORE",
        help="Final score from which an episode is a success.",
    ),
    click.option(
        "--over",
        type=click.Choice(["tasks", "seeds"]),
        default=_DEFAULTS["over"],
        show_default=True,
        help="What the intervals speak of: other tasks like these, or other seeds of these very tasks.",
    ),
    click.option(
        "--unscored",
        type=click.Choice(["leave-out", "zero"]),
        default=_DEFAULTS["unscored"],
        show_default=True,
        help="What becomes of an episode that is over without a score.",
    ),
    click.option(
        "--selection",
        metavar="TEXT",
        default=_DEFAULTS["selection"],
        help="By which rule the evaluated checkpoint was chosen, to be printed with the figures.",
    ),
    click.option("--allow-seen", is_flag=True, help="Tasks that were trained on are no failure."),
)


def evaluation_options(command: Command) -> Command:
    """The options of `Options`; the command gets them by these names."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Evaluated(NamedTuple):
    """Runs that were read, and which of their tasks their weights had seen."""

    arms: list[Arm]
    seen: list[Seen]
    notes: list[str]


def read_runs(names: Sequence[str | None], options: Options) -> Evaluated:
    """Read the runs.

    Raises:
        UsageError: a run is named twice, or there is none of that name.
        HpcError: its files cannot be read.
    """
    from hpc.core.errors import UsageError
    from hpc.evaluation.results import read_arm
    from hpc.evaluation.seen import provenance_of, seen

    runs: list[RunDir] = [find_run(name, options.runs_root) for name in names]
    for number, run in enumerate(runs):
        if run.name in {other.name for other in runs[:number]}:
            raise UsageError(f"run {run.name} is named twice", "name different runs")
    arms = [read_arm(run, unscored=options.unscored) for run in runs]
    checked = [seen(arm, provenance_of(run, options.runs_root)) for arm, run in zip(arms, runs, strict=True)]
    return Evaluated(arms, checked, _conditions(runs))


def require_episodes(arms: Sequence[Arm]) -> None:
    """Nothing, where every run has an episode that counts.

    Raises:
        HpcError: one has none; the message says why.
    """
    from hpc.core.errors import HpcError

    for arm in arms:
        if not arm.results:
            why = ", ".join(f"{count} {reason}" for reason, count in arm.reasons.items()) or "it has no episodes"
            raise HpcError(f"run {arm.name} has no episode that counts: {why}", f"hpc episodes status {arm.name}")


def settings(options: Options) -> dict[str, Any]:
    """How the figures were made, for JSON."""
    from hpc.evaluation.bootstrap import INTERVAL, RESAMPLES
    from hpc.evaluation.statistics import selection

    return {
        "selection": {**selection(options.success_at), "checkpoint": options.selection or "not said"},
        "success_at": options.success_at,
        "unscored": options.unscored,
        "interval": INTERVAL,
        "over": options.over,
        "resamples": RESAMPLES,
        "seed": 0,
    }


def tell(found: Evaluated, options: Options, comparisons: Sequence[Comparison] = ()) -> None:
    """Say on stderr by which rules the figures were made and what is not in them."""
    from hpc.evaluation.statistics import selection

    def note(text: str) -> None:
        click.echo(f"note: {text}", err=True)

    rules = selection(options.success_at)
    note(f"final: {rules['score']}; best: {rules['best']}; success: {rules['success']}")
    for each in found.seen:
        chosen = f"chosen by: {options.selection}" if options.selection else "how it was chosen is not said"
        note(f"{each.run}: weights {each.checkpoint or each.model or 'unknown'}, {chosen}")
    note(f"95 % intervals over {options.over}; success of single runs: Wilson, as if episodes were independent")
    for arm in found.arms:
        for reason, count in arm.reasons.items():
            which = [left.episode for left in arm.left_out if left.reason == reason]
            note(f"{arm.name}: {count} left out: {reason}: {_some(which)}")
    for comparison in comparisons:
        if comparison.group not in ("", WHOLE):
            continue  # what has no partner is named once, for the whole run
        for reason, keys in comparison.unpaired.items():
            note(f"{len(keys)} without a partner: {reason}: {_some(keys)}")
    for text in found.notes:
        note(text)


def faults(seen: Sequence[Seen], options: Options) -> list[str]:
    """The tasks that were trained on and should not have been."""
    return [] if options.allow_seen else sorted({task for each in seen for task in each.tasks})


def tell_seen(seen: Sequence[Seen], options: Options) -> int:
    """Say what was trained on and what is not known of that; the exit code, 0 or `GATE_SAYS_NO`."""
    for each in seen:
        for why in each.unknown:
            click.echo(f"note: whether {each.run} was trained on these tasks is not known: {why}", err=True)
        if each.datasets and not each.tasks:
            click.echo(f"note: no task of {each.run} is in {_some(each.datasets)}", err=True)
        if each.tasks:
            click.echo(
                f"{'note' if options.allow_seen else 'fault'}: {len(each.tasks)} tasks of {each.run} were trained on "
                f"({each.episodes} episodes, {each.same_seed} of them with the same seed; {_some(each.datasets)}): "
                f"{_some(each.tasks)}",
                err=True,
            )
    if not faults(seen, options):
        return 0
    click.echo("  fix: evaluate on tasks that no training saw, or say --allow-seen", err=True)
    return GATE_SAYS_NO


def _conditions(runs: Sequence[RunDir]) -> list[str]:
    """Where runs were given their tasks under other terms, which pairs cannot mend."""
    notes = []
    first, *others = (run.read_config().get("task") for run in runs)
    for run, other in zip(runs[1:], others, strict=True):
        if isinstance(first, dict) and isinstance(other, dict):
            keys = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
            if keys:
                told = ", ".join(f"task.{key} {first.get(key)} and {other.get(key)}" for key in keys)
                notes.append(f"{runs[0].name} and {run.name} differ in {told}")
    return notes


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
