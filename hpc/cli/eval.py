"""``hpc eval``: what evaluated runs came to, and whether one is better than another."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.eval_runs import (
    GATE_SAYS_NO,
    WHOLE,
    Options,
    evaluation_options,
    faults,
    read_runs,
    require_episodes,
    settings,
    tell,
    tell_seen,
)
from hpc.cli.eval_submit import submit_command, watch_command
from hpc.cli.output import emit_json, emit_table, json_option, runs_option

if TYPE_CHECKING:
    from hpc.evaluation.gate import Says
    from hpc.evaluation.pairs import Comparison
    from hpc.evaluation.results import Arm, FigureName
    from hpc.evaluation.statistics import By, Summary

CODES: dict[Says, int] = {"yes": 0, "no": GATE_SAYS_NO, "cannot be told": 6}

by_option = click.option(
    "--by", type=click.Choice(["task", "domain"]), help="Rows for each task or domain (family of tasks) as well."
)
k_option = click.option(
    "--pass-at", "ks", type=click.IntRange(min=1), multiple=True, metavar="K",
    help="pass@K; may be repeated.  [default: powers of two up to the seeds that every task has]",
)  # fmt: skip
figure_option = click.option(
    "--figure",
    type=click.Choice(["score", "best", "success", "steps"]),
    default="score",
    show_default=True,
    help="What to compare in pairs: final score, best score, success or steps.",
)


@click.group(invoke_without_command=True)
@runs_option
@click.pass_context
def evaluation(ctx: click.Context, runs_root: Path) -> None:
    """Figures of evaluated runs with intervals, and their comparison in pairs. Without a verb: the newest run.

    Example: hpc eval compare before after
    """
    if ctx.invoked_subcommand is None:
        options = Options(runs_root, allow_seen=True)
        found = read_runs([None], options)
        require_episodes(found.arms)
        _print([_summary(found.arms[0], options, ())], [], grouped=False)
        tell(found, options)
        tell_seen(found.seen, options)


evaluation.add_command(submit_command)
evaluation.add_command(watch_command)


@evaluation.command()
@click.argument("run_names", nargs=-1, required=True, metavar="RUN RUN…")
@click.option("--baseline", metavar="RUN", help="What the others are compared with.  [default: the first]")
@figure_option
@by_option
@k_option
@evaluation_options
@json_option
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    run_names: tuple[str, ...],
    baseline: str | None,
    figure: FigureName,
    by: By | None,
    ks: tuple[int, ...],
    as_json: bool,
    **shared: Any,
) -> None:
    """Compare RUNs on the tasks and seeds that they share.

    Prints each run's figures with 95 % intervals, and each run's paired difference to the baseline with its
    interval, exact McNemar test of success, Wilcoxon signed-rank test, and p-values adjusted by Holm's rule
    where several runs are compared. What cannot be paired is counted and named on stderr. Exit code: 0, or 5
    where a run's weights were trained on its tasks (--allow-seen).

    \b
    Examples:
      hpc eval compare untrained taught
      hpc eval compare untrained all filtered --figure success --by domain --json
    """
    from hpc.core.errors import UsageError

    options = Options(**shared)
    names = [*([] if baseline is None or baseline in run_names else [baseline]), *run_names]
    if len(names) < 2:
        raise UsageError("one run cannot be compared", "name two or more, or `hpc eval table RUN`")
    base = names.index(baseline) if baseline is not None else 0
    found = read_runs(names, options)
    require_episodes(found.arms)
    summaries, comparisons = _all(found.arms, found.arms[base], figure, by, ks, options)
    if as_json:
        emit_json(_plain(summaries, comparisons, found.seen, found.notes, options))
    else:
        _print(summaries, comparisons, grouped=by is not None)
        tell(found, options, comparisons)
    ctx.exit(tell_seen(found.seen, options))


@evaluation.command()
@click.argument("run_name", metavar="RUN")
@click.option("--baseline", required=True, metavar="RUN", help="What it must be better than.")
@click.option("--min-gain", type=float, required=True, metavar="X", help="Least gain, in units of the figure.")
@click.option("--relative", is_flag=True, help="X is a share of the baseline's mean: 0.1 is 10 %.")
@click.option(
    "--figure",
    type=click.Choice(["score", "best", "success"]),
    default="score",
    show_default=True,
    help="Final score or best score (0 to 100), or success (0 to 1).",
)
@click.option("--min-pairs", type=click.IntRange(min=1), default=10, show_default=True, help="Fewest pairs that tell.")
@click.option(
    "--max-unpaired",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    metavar="SHARE",
    help="Largest share of episodes without a partner.",
)
@evaluation_options
@json_option
@click.pass_context
def gate(
    ctx: click.Context,
    /,
    run_name: str,
    baseline: str,
    min_gain: float,
    relative: bool,
    figure: FigureName,
    min_pairs: int,
    max_unpaired: float,
    as_json: bool,
    **shared: Any,
) -> None:
    """Say whether RUN is better than the baseline by enough.

    \b
    The gain is the mean paired difference over tasks and seeds that both have. Exit code:
      0  yes: its whole 95 % interval is at X or above
      5  no: its whole interval is below X, or RUN's weights or the baseline's were trained on these tasks
      6  cannot be told: the interval holds X or there is none, there are fewer pairs than --min-pairs, too
         many episodes have no partner, or with --relative the baseline's mean is not above 0

    \b
    Examples:
      hpc eval gate taught --baseline untrained --min-gain 0.1 --relative
      hpc eval gate taught --baseline untrained --min-gain 0.05 --figure success --min-pairs 50
    """
    import msgspec

    from hpc.evaluation.gate import decide
    from hpc.evaluation.pairs import compare as compare_arms
    from hpc.evaluation.tables import DIGITS, interval

    options = Options(**shared)
    found = read_runs([run_name, baseline], options)
    arm, base = found.arms
    comparison = compare_arms(arm, base, figure, success_at=options.success_at, over=options.over)
    verdict = decide(
        comparison,
        min_gain,
        use_relative=relative,
        min_pairs=min_pairs,
        max_unpaired=max_unpaired,
        trained_on=faults(found.seen, options),
    )
    if as_json:
        told = {"verdict": msgspec.to_builtins(verdict), "comparison": msgspec.to_builtins(comparison)}
        emit_json({**told, "seen": msgspec.to_builtins(found.seen), "notes": found.notes, **settings(options)})
    else:
        digits, wanted = (1, f"{100 * min_gain:g} %") if relative else (DIGITS[figure], f"{min_gain:g}")
        gain = interval(verdict.gain, digits, signed=True, percent=relative)
        click.echo(
            f"{verdict.says}: {arm.name} against {base.name}, {figure}: gain {gain} over {comparison.pairs} pairs "
            f"of {comparison.tasks} tasks, least gain {wanted}: {verdict.reason}"
        )
        tell(found, options, [comparison])
    tell_seen(found.seen, options)
    ctx.exit(CODES[verdict.says])


@evaluation.command()
@click.argument("run_names", nargs=-1, required=True, metavar="RUN…")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["md", "csv", "json", "latex"]),
    default="md",
    show_default=True,
    help="Of the tables; CSV and JSON are not rounded, LaTeX needs the package booktabs.",
)
@click.option("--baseline", metavar="RUN", help="What the others are compared with.  [default: the first]")
@figure_option
@by_option
@k_option
@evaluation_options
@click.pass_context
def table(
    ctx: click.Context,
    /,
    run_names: tuple[str, ...],
    kind: str,
    baseline: str | None,
    figure: FigureName,
    by: By | None,
    ks: tuple[int, ...],
    **shared: Any,
) -> None:
    """Print the figures of RUNs for a paper, and below them their paired differences.

    \b
    Examples:
      hpc eval table untrained taught --format latex > table.tex
      hpc eval table taught --by task --format csv
    """
    from hpc.evaluation import tables

    options = Options(**shared)
    names = [*([] if baseline is None or baseline in run_names else [baseline]), *run_names]
    base = names.index(baseline) if baseline is not None else 0
    found = read_runs(names, options)
    require_episodes(found.arms)
    summaries, comparisons = _all(found.arms, found.arms[base], figure, by, ks, options)
    if kind == "json":
        emit_json(_plain(summaries, comparisons, found.seen, found.notes, options))
    elif kind == "csv":
        parts = [tables.csv_figures(summaries), *([tables.csv_differences(comparisons)] if comparisons else [])]
        click.echo("\n\n".join(parts))
    else:
        write = tables.markdown if kind == "md" else tables.latex
        made = [tables.figures(summaries, grouped=by is not None)]
        if comparisons:
            made.append(tables.differences(comparisons, grouped=by is not None))
        click.echo("\n\n".join(map(write, made)))
    tell(found, options, comparisons)
    ctx.exit(tell_seen(found.seen, options))


# ---- what is computed and printed -------------------------------------------------------------


def _all(
    arms: list[Arm], baseline: Arm, figure: FigureName, by: By | None, ks: tuple[int, ...], options: Options
) -> tuple[list[Summary], list[Comparison]]:
    """The figures of all runs and their differences to the baseline: whole, then by group."""
    from hpc.evaluation.pairs import compare_all
    from hpc.evaluation.results import Arm
    from hpc.evaluation.statistics import parts

    whole = "" if by is None else WHOLE
    others = [arm for arm in arms if arm is not baseline]
    paired = functools.partial(compare_all, figure=figure, success_at=options.success_at, over=options.over)
    summaries = [_summary(arm, options, ks, whole) for arm in arms]
    comparisons = paired(others, baseline, group=whole) if others else []
    if by is not None:
        divided = [parts(arm, by) for arm in arms]
        for group in sorted({name for part in divided for name in part}):
            here = [
                part.get(group, Arm(name=arm.name, results=[], left_out=[]))
                for arm, part in zip(arms, divided, strict=True)
            ]
            summaries += [_summary(arm, options, ks, group) for arm in here]
            base = here[arms.index(baseline)]
            rest = [arm for arm in here if arm is not base]
            comparisons += paired(rest, base, group=group) if rest else []
    return summaries, comparisons


def _summary(arm: Arm, options: Options, ks: tuple[int, ...], group: str = "") -> Summary:
    import msgspec

    from hpc.evaluation.statistics import summarize

    made = summarize(arm, success_at=options.success_at, over=options.over, ks=ks)
    return msgspec.structs.replace(made, group=group)


def _print(summaries: list[Summary], comparisons: list[Comparison], *, grouped: bool) -> None:
    from hpc.evaluation import tables

    emit_table(*tables.figures(summaries, grouped=grouped))
    if comparisons:
        click.echo()
        emit_table(*tables.differences(comparisons, grouped=grouped))


def _plain(
    summaries: list[Summary], comparisons: list[Comparison], seen: list[Any], notes: list[str], options: Options
) -> dict[str, Any]:
    import msgspec

    return {
        "summaries": msgspec.to_builtins(summaries),
        "comparisons": msgspec.to_builtins(comparisons),
        "seen": msgspec.to_builtins(seen),
        "notes": notes,
        **settings(options),
    }
