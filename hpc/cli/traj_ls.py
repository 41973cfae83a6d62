"""``hpc traj ls`` and ``hpc traj stats``: many trajectories at once, from the runs' indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpc.cli.output import emit_json, emit_table, json_option, runs_option
from hpc.cli.traj_find import EVERYTHING, find_set, range_of

if TYPE_CHECKING:
    from hpc.trajectories.index import Entry
    from hpc.trajectories.statistics import Spread, Statistics

COLUMNS = ["index", "status", "steps", "score", "best", "alerts", "guidance", "attempts", "task", "note"]
SORTS = ("index", "run", "status", "task", "steps", "score", "best", "alerts", "guidance", "attempts",
         "started", "ended", "working", "tokens")  # fmt: skip
STATUSES = ("running", "finished", "truncated", "failed", "stopped", "damaged")
BAR = 30
_FIELDS = {
    "score": "final_score",
    "best": "best_score",
    "started": "created_at",
    "ended": "ended_at",
    "working": "working_seconds",
    "tokens": "answer_tokens",
}
Command = TypeVar("Command", bound=Callable[..., Any])
Limits = tuple[float | None, float | None]

all_runs_option = click.option("--all-runs", is_flag=True, help="All runs of the folder instead of named ones.")


def _ranged(name: str, what: str) -> Callable[[Command], Command]:
    return click.option(f"--{name}", f"in_{name}", callback=range_of, metavar="A:B", help=f"Only with {what} in A:B.")


@click.command()
@click.argument("run_names", nargs=-1, metavar="[RUN…]")
@runs_option
@all_runs_option
@click.option("--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="Only these; may be repeated.")
@click.option("--task", default="", metavar="PATTERN", help="Only tasks like this, e.g. 'minilab/*'.")
@click.option("--detector", "detectors", multiple=True, metavar="PATTERN", help="Only where this detector alerted.")
@click.option("--annotator", "annotators", multiple=True, metavar="PATTERN", help="Only where this person helped.")
@_ranged("score", "the final score")
@_ranged("best", "the best score")
@_ranged("steps", "the number of steps")
@_ranged("alerts", "the number of alerts")
@_ranged("guidance", "the number of guidance texts")
@_ranged("attempts", "the number of attempts")
@click.option("--sort", type=click.Choice(SORTS), default="index", show_default=True, help="Order of the rows.")
@click.option("--reverse", is_flag=True, help="Highest first.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N rows.")
@json_option
def ls(
    run_names: tuple[str, ...] = (),
    runs_root: Path = Path("runs"),
    all_runs: bool = False,
    statuses: tuple[str, ...] = (),
    task: str = "",
    detectors: tuple[str, ...] = (),
    annotators: tuple[str, ...] = (),
    in_score: Limits = EVERYTHING,
    in_best: Limits = EVERYTHING,
    in_steps: Limits = EVERYTHING,
    in_alerts: Limits = EVERYTHING,
    in_guidance: Limits = EVERYTHING,
    in_attempts: Limits = EVERYTHING,
    sort: str = "index",
    reverse: bool = False,
    limit: int | None = None,
    as_json: bool = False,
) -> None:
    """List trajectories of RUNs (of the newest run without a name) that meet all conditions.

    A range is A:B with both ends, A:, :B or A. Names are patterns as in a shell.

    \b
    Examples:
      hpc traj ls my-run --status failed --sort steps
      hpc traj ls --all-runs --task 'minilab/*' --score 50: --guidance 1: --sort score --reverse --limit 10
    """
    from hpc.trajectories.collection import Filter

    wanted = Filter(
        statuses=statuses,
        task=task,
        detectors=detectors,
        annotators=annotators,
        score=in_score,
        best=in_best,
        steps=in_steps,
        alerts=in_alerts,
        guidance=in_guidance,
        attempts=in_attempts,
    )
    found = find_set(run_names, runs_root, all_runs=all_runs).where(wanted).entries
    rows = [_row(entry) for entry in ordered(found, sort, reverse=reverse)[:limit]]
    if as_json:
        emit_json(rows)
        return
    columns = ["run", *COLUMNS] if all_runs or len(run_names) > 1 else COLUMNS
    cells = [[_number(row[column]) for column in columns] for row in rows]
    emit_table(columns, cells, empty="no trajectory meets that" if wanted != Filter() else "no trajectories yet")


def ordered(entries: list[Entry], sort: str, *, reverse: bool) -> list[Entry]:
    """By the value called ``sort``, then by run and index; those without the value come last."""
    field = _FIELDS.get(sort, sort)
    entries = sorted(entries, key=lambda entry: (entry.run, entry.index))
    known = [entry for entry in entries if getattr(entry, field) is not None]
    known.sort(key=lambda entry: getattr(entry, field), reverse=reverse)
    return [*known, *(entry for entry in entries if getattr(entry, field) is None)]


def _row(entry: Entry) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in entry.__struct_fields__}
    values |= {"score": values.pop("final_score"), "best": values.pop("best_score")}
    if entry.status == "damaged":
        values |= dict.fromkeys(("steps", "alerts", "guidance", "attempts"))
    return values


@click.command()
@click.argument("run_names", nargs=-1, metavar="[RUN…]")
@runs_option
@all_runs_option
@click.option("--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="Only these; may be repeated.")
@click.option("--task", default="", metavar="PATTERN", help="Only tasks like this, e.g. 'minilab/*'.")
@json_option
def stats(
    run_names: tuple[str, ...],
    runs_root: Path,
    all_runs: bool,
    statuses: tuple[str, ...],
    task: str,
    as_json: bool,
) -> None:
    """Add up the trajectories of RUNs: steps, tokens, time, scores, actions, errors, alerts, guidance.

    Example: hpc traj stats first second --task 'minilab/*' --json
    """
    import msgspec

    from hpc.trajectories.statistics import statistics_of

    chosen = find_set(run_names, runs_root, all_runs=all_runs).where(statuses=statuses, task=task)
    figures = statistics_of(chosen.entries)
    if as_json:
        emit_json(msgspec.to_builtins(figures))
    else:
        _print_statistics(figures)


def _print_statistics(figures: Statistics) -> None:
    for name, value in _facts(figures):
        click.echo(f"{name:<15} {value}")
    for title, counted in (
        ("actions", figures.actions),
        ("errors by boundary", figures.errors),
        ("alerts by detector", figures.detectors),
        ("guidance by annotator", figures.annotators),
    ):
        _print_histogram(title, counted)


def _facts(figures: Statistics) -> list[tuple[str, str]]:
    statuses = ", ".join(f"{count} {status}" for status, count in figures.statuses.items())
    each = figures.steps_each
    return [
        ("trajectories", f"{figures.trajectories} in {figures.runs} runs: {statuses or 'none'}"),
        ("steps", f"{figures.steps:,}, each {_spread(each, 0)}"),
        ("attempts", f"{figures.attempts:,}"),
        ("working time", f"{_hours(figures.working_seconds)}, of it {_hours(figures.model_seconds)} in the model"),
        (
            "tokens in",
            f"{figures.prompt_tokens:,} read as prompts, {figures.new_tokens:,} of them new to the context",
        ),
        ("tokens out", f"{figures.answer_tokens:,}"),
        ("cost", _cost(figures)),
        ("final score", _spread(figures.final_score, 1)),
        ("best score", _spread(figures.best_score, 1)),
        ("evaluations", f"{figures.evaluations:,}"),
        ("malformed", f"{figures.malformed:,} answers without a valid action"),
        ("alerts", f"{figures.alerts:,}, {_rate(figures.alerts_per_100_steps)}"),
        ("guidance", f"{figures.guidance:,}, {_rate(figures.guidance_per_100_steps)}"),
    ]


def _cost(figures: Statistics) -> str:
    parts = [f"{figures.cached_tokens:,} tokens cached", f"{figures.summaries:,} summaries"]
    if figures.gpu_seconds is not None:
        parts.insert(0, f"{figures.gpu_seconds / 3600:,.1f} GPU hours")
    if figures.cost is not None:
        parts.insert(0, f"${figures.cost:,.2f}")
    return ", ".join(parts)


def _print_histogram(title: str, counted: Mapping[str, int]) -> None:
    if not counted:
        return
    click.echo(f"\n{title}")
    total, most = sum(counted.values()), max(counted.values())
    width = max(len(name) for name in counted)
    for name, count in counted.items():
        click.echo(f"  {name:<{width}}  {count:>8,}  {100 * count / total:5.1f} %  {'█' * round(BAR * count / most)}")


def _spread(values: Spread, digits: int) -> str:
    if not values.count:
        return "–"
    return (
        f"mean {values.mean:.{digits}f}, median {values.median:.{digits}f}, "
        f"{values.low:.{digits}f} to {values.high:.{digits}f} ({values.count})"
    )


def _rate(value: float | None) -> str:
    return "no steps" if value is None else f"{value:.2f} per 100 steps"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)
