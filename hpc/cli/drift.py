"""``hpc drift``: what detectors are worth, measured on stored trajectories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hpc.cli.output import bar, emit_json, emit_table, json_option, runs_option

if TYPE_CHECKING:
    from hpc.config.drift import DriftConfig
    from hpc.drift.cases import Case
    from hpc.drift.metrics import Estimate, Quality, Window

COLUMNS = ["detector", "alerts", "precision", "recall", "lead (steps)", "alerts/100 steps"]

files_argument = click.argument("arguments", nargs=-1, required=True, metavar="FILES… [OVERRIDES]")
labels_option = click.option(
    "--labels",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Mistakes in our own trajectories: JSONL {episode, step} or CSV with these columns; no step: no mistake.",
)
before_option = click.option(
    "--before", type=click.IntRange(0), default=0, show_default=True, help="Steps before a mistake that count as met."
)
after_option = click.option(
    "--after", type=click.IntRange(0), default=10, show_default=True, help="Steps after a mistake that count as met."
)
max_steps_option = click.option(
    "--max-steps", type=click.IntRange(1), help="Budget in steps of trajectories outside a run directory."
)
hours_option = click.option(
    "--max-hours",
    type=click.FloatRange(0, min_open=True),
    help="Budget in working hours of trajectories outside a run directory.",
)
resamples_option = click.option(
    "--resamples", type=click.IntRange(0), default=1000, show_default=True, help="Bootstrap draws; 0: no intervals."
)
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")


@click.group(invoke_without_command=True)
@click.pass_context
def drift(ctx: click.Context) -> None:
    """Measure drift detectors on stored trajectories, and choose their limits. Without a verb: list.

    Example: hpc drift replay my-run --labels mistakes.csv
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@drift.command("list")
@click.argument("overrides", nargs=-1)
@json_option
def list_(overrides: tuple[str, ...] = (), as_json: bool = False) -> None:
    """List the detectors with their weights and limits.

    Example: hpc drift list drift=minilab
    """
    from hpc.config import to_builtins
    from hpc.drift.detectors import DRIFT_DETECTORS

    config = _config(overrides)
    value = to_builtins(config)
    sections = [(name, dict(value[name])) for name in DRIFT_DETECTORS]
    rows = [
        {"detector": name, "on": config.enabled and section.pop("enabled"), "weight": section.pop("weight"), **section}
        for name, section in sections
    ]
    if as_json:
        emit_json(rows)
        return
    emit_table(
        ["detector", "on", "weight", "limits"],
        [
            [
                row.pop("detector"),
                "yes" if row.pop("on") else "no",
                row.pop("weight"),
                " ".join(f"{name}={limit}" for name, limit in row.items() if limit not in (None, "")),
            ]
            for row in rows
        ],
    )


@drift.command()
@files_argument
@labels_option
@before_option
@after_option
@max_steps_option
@hours_option
@resamples_option
@seed_option
@runs_option
@json_option
def replay(
    arguments: tuple[str, ...],
    labels: Path | None,
    before: int,
    after: int,
    max_steps: int | None,
    max_hours: float | None,
    resamples: int,
    seed: int,
    runs_root: Path,
    as_json: bool,
) -> None:
    """Replay detectors over trajectories and say how good their alerts are.

    FILES are trajectories of ours (.h5, a log, RUN/INDEX, or RUN for all of a run), SWE-agent's .traj
    and annotated failures of Who&When (.json). OVERRIDES choose the detectors: drift=NAME, drift.KEY=VALUE.
    An alert meets a mistake if it comes at most --before steps before or --after steps after it. Unlabelled
    trajectories count for alerts/100 steps only. docs/drift.md defines every figure.

    \b
    Examples:
      hpc drift replay who-and-when/*.json drift.error_streak.errors=1
      hpc drift replay my-run/3 my-run/4 --labels mistakes.jsonl drift=minilab --json
    """
    from hpc.drift.metrics import Window
    from hpc.drift.replay import study, switched_on

    targets, overrides = _split(arguments)
    config = _config(overrides)
    cases, unused = _cases(targets, runs_root, labels, max_steps, max_hours)
    window = Window(before, after)
    with bar("replaying", len(switched_on(config)) + 3) as advance:
        rows = study(cases, config, window, resamples=resamples, seed=seed, on_row=advance)
    if as_json:
        emit_json(
            {
                **_about(cases, window, config, resamples, seed),
                "labels_without_trajectory": unused,
                "rows": [{"name": row.name, "kind": row.kind, **_plain(row.quality)} for row in rows],
            }
        )
        return
    _warn(cases, unused)
    emit_table(COLUMNS, [[row.name, *_cells(row.quality)] for row in rows])


@drift.command()
@files_argument
@labels_option
@before_option
@after_option
@click.option(
    "--objective",
    type=click.Choice(["recall", "f-beta"]),
    default="recall",
    show_default=True,
    help="recall: the highest within --budget; f-beta: the highest F-beta, see --beta.",
)
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    default=5.0,
    show_default=True,
    help="Alerts per 100 steps that recall may cost.",
)
@click.option(
    "--beta",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="F-beta: how much more recall counts than precision.",
)
@click.option(
    "--choose-on",
    "share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="Share of the tasks on which limits are chosen; the rest reports.",
)
@click.option("--trials", type=click.IntRange(1), default=200, show_default=True, help="Configurations to try.")
@click.option(
    "--over",
    "grid",
    multiple=True,
    metavar="KEY=V1,V2,…",
    help="Try these values only, as in --over error_streak.errors=1,2,3; may be repeated.",
)
@click.option(
    "--write",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the tuned limits as a drift configuration.",
)
@click.option("--force", is_flag=True, help="With --write: replace the file if it exists.")
@max_steps_option
@hours_option
@resamples_option
@seed_option
@runs_option
@json_option
def tune(
    arguments: tuple[str, ...],
    labels: Path | None,
    before: int,
    after: int,
    objective: Literal["recall", "f-beta"],
    budget: float,
    beta: float,
    share: float,
    trials: int,
    grid: tuple[str, ...],
    write: Path | None,
    force: bool,
    max_steps: int | None,
    max_hours: float | None,
    resamples: int,
    seed: int,
    runs_root: Path,
    as_json: bool,
) -> None:
    """Choose the limits of detectors on one part of the trajectories and report on the other.

    FILES and OVERRIDES as of `hpc drift replay`. The parts are split by task, never by step. Only the
    detectors that the configuration switches on are tuned. Believe the lines of the reporting part, and
    compare them with the baselines beside them, which look at nothing.

    \b
    Examples:
      hpc drift tune who-and-when/*.json --budget 6 --write site/drift/tuned.yaml
      hpc drift tune run-a run-b --labels mistakes.csv --over monitoring.polls=5,10,20 --objective f-beta
      HPC_CONFIG_PATH=site hpc drift replay run-c --labels mistakes.csv drift=tuned
    """
    from hpc.cli.drift_files import grid_of, write_config
    from hpc.core.errors import UsageError
    from hpc.drift.metrics import Window
    from hpc.drift.search import Objective, space_of, split
    from hpc.drift.search import tune as search

    targets, overrides = _split(arguments)
    config = _config(overrides)
    space = grid_of(grid, config) if grid else space_of(config)
    if write is not None and write.exists() and not force:
        raise UsageError(f"{write} exists already", "choose another name, or replace it with --force")
    cases, unused = _cases(targets, runs_root, labels, max_steps, max_hours)
    window = Window(before, after)
    choosing, reporting = split(cases, share=share, seed=seed)
    for part, half in (("choose", choosing), ("report", reporting)):
        if not any(case.mistakes for case in half):
            raise UsageError(
                f"no labelled mistake to {part} on among {len(half)} of {len(cases)} trajectories",
                "name more labelled trajectories, or change --choose-on or --seed",
            )
    with bar("tuning", trials) as advance:
        tuned = search(
            choosing,
            reporting,
            config,
            window,
            Objective(kind=objective, budget=budget, beta=beta),
            space=space,
            trials=trials,
            resamples=resamples,
            seed=seed,
            on_trial=advance,
        )
    if write is not None:
        write_config(write, tuned.config, f"Chosen by hpc drift tune on {len(choosing)} trajectories, seed {seed}.")
    if as_json:
        emit_json(
            {
                **_about(cases, window, tuned.config, resamples, seed),
                "labels_without_trajectory": unused,
                "choosing": [case.name for case in choosing],
                "reporting": [case.name for case in reporting],
                "objective": {"kind": objective, "budget": budget, "beta": beta},
                "tried": tuned.tried,
                "changed": tuned.changed,
                "written": str(write) if write is not None else None,
                "rows": [{"part": line.part, "name": line.name, **_plain(line.quality)} for line in tuned.lines],
            }
        )
        return
    _warn(cases, unused)
    emit_table(["part", *COLUMNS], [[line.part, line.name, *_cells(line.quality)] for line in tuned.lines])
    told = " ".join(f"drift.{key}={'null' if value is None else value}" for key, value in tuned.changed.items())
    click.echo(
        f"tuned: {told.replace('True', 'true').replace('False', 'false') or 'nothing beats the start'}", err=True
    )
    if write is not None:
        click.echo(
            f"wrote {write}; in a folder FOLDER/drift/, use it by HPC_CONFIG_PATH=FOLDER drift={write.stem}", err=True
        )


# ---- what is replayed -------------------------------------------------------------------------


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Trajectories, and overrides: what holds ``=`` and is no file."""
    from hpc.core.errors import UsageError

    overrides = [each for each in arguments if "=" in each and not Path(each).exists()]
    targets = [each for each in arguments if each not in overrides]
    if not targets:
        raise UsageError("no trajectory to replay", "name .h5, .traj or .json files, RUN/INDEX or RUN")
    return targets, overrides


def _config(overrides: Sequence[str]) -> DriftConfig:
    from hpc.config import compose

    config: DriftConfig = compose("drift", overrides).drift
    return config


def _cases(
    targets: Sequence[str],
    runs_root: Path,
    labels: Path | None,
    max_steps: int | None,
    max_hours: float | None,
) -> tuple[list[Case], list[str]]:
    """The trajectories with their labels, and episodes of labels that are not among them."""
    from hpc.cli.drift_files import cases_of
    from hpc.drift.cases import labelled, read_labels

    told = read_labels(labels) if labels is not None else []
    with bar("reading", len(targets)) as advance:
        cases = cases_of(targets, runs_root, max_steps=max_steps, max_hours=max_hours, on_target=advance)
    return labelled(cases, told)


# ---- what is printed --------------------------------------------------------------------------


def _about(cases: Sequence[Case], window: Window, config: DriftConfig, resamples: int, seed: int) -> dict[str, Any]:
    from hpc.config import to_builtins

    return {
        "trajectories": len(cases),
        "labelled": sum(case.mistakes is not None for case in cases),
        "steps": sum(len(case.views) for case in cases),
        "window": {"before": window.before, "after": window.after},
        "resamples": resamples,
        "seed": seed,
        "drift": to_builtins(config),
    }


def _plain(quality: Quality) -> dict[str, Any]:
    import msgspec

    value: dict[str, Any] = msgspec.to_builtins(quality)
    return value


def _warn(cases: Sequence[Case], unused: Iterable[str]) -> None:
    without = sum(case.mistakes is None for case in cases)
    if without == len(cases):
        click.echo("no trajectory has a label: only alerts/100 steps can be told; see --labels", err=True)
    elif without:
        click.echo(f"{without} of {len(cases)} trajectories have no label: alerts/100 steps only", err=True)
    if listed := list(unused):
        click.echo(f"labels of episodes that are not replayed: {', '.join(listed)}", err=True)


def _cells(quality: Quality) -> list[str]:
    return [
        f"{quality.alerts:.0f}",
        _interval(quality.precision, 100, "%"),
        _interval(quality.recall, 100, "%"),
        _interval(quality.lead, 1, "", digits=1),
        _interval(quality.alerts_per_100, 1, "", digits=2),
    ]


def _interval(estimate: Estimate, scale: float, unit: str, *, digits: int = 0) -> str:
    """``12 % [3, 20]``; a dash where there is nothing to tell."""
    if estimate.value is None:
        return "-"
    told = f"{scale * estimate.value:.{digits}f}{f' {unit}' if unit else ''}"
    if estimate.low is None or estimate.high is None:
        return told
    return f"{told} [{scale * estimate.low:.{digits}f}, {scale * estimate.high:.{digits}f}]"
