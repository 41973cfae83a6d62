"""The figures of runs as tables: for a terminal, and in Markdown, CSV and LaTeX for a paper. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hpc.evaluation.bootstrap import Estimate
from hpc.evaluation.pairs import Comparison
from hpc.evaluation.results import FigureName
from hpc.evaluation.significance import Proportion
from hpc.evaluation.statistics import Summary
from hpc.evaluation.words import duration

NONE = "–"
DIGITS: dict[FigureName, int] = {"score": 1, "best": 1, "success": 2, "steps": 1}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "…": r"\dots{}", "<": "$<$", ">": "$>$",
}  # fmt: skip


class Table(NamedTuple):
    """Column names and rows of as many cells."""

    columns: list[str]
    rows: list[list[str]]


def figures(summaries: Sequence[Summary], *, grouped: bool = False) -> Table:
    """A row for each run (or part of one): means with 95 % intervals.

    Args:
        grouped: whether to name the task or domain of each row.
    """
    # of one seed each pass@1 is the success beside it
    several = any(summary.seeds[1] > 1 for summary in summaries)
    ks = sorted({each.k for summary in summaries for each in summary.pass_at if each.k > 1 or several})
    costs = any(summary.cost_known for summary in summaries)
    columns = ["run", *(["of"] if grouped else []), "episodes", "tasks", "seeds", "final", "best", "success",
               *(f"pass@{k}" for k in ks), "steps", "working time", "tokens read", "tokens answered",
               *(["cost $"] if costs else [])]  # fmt: skip
    rows = []
    for each in summaries:
        passes = {one.k: one.share for one in each.pass_at}
        low, high = each.seeds
        row = [each.run, *([each.group] if grouped else []), str(each.episodes), str(each.tasks)]
        row += [str(low) if low == high else f"{low}-{high}", interval(each.score, 1), interval(each.best, 1)]
        row += [interval(each.success, 2), *(interval(passes.get(k, Estimate()), 2) for k in ks)]
        row += [interval(each.steps, 1), duration(each.working_seconds.value)]
        row += [interval(each.read_tokens, 0), interval(each.answer_tokens, 0)]
        if costs:
            some = f" ({each.cost_known} of {each.episodes})" if 0 < each.cost_known < each.episodes else ""
            row.append(interval(each.cost, 4) + some)
        rows.append(row)
    return Table(columns, rows)


def differences(comparisons: Sequence[Comparison], *, grouped: bool = False) -> Table:
    """A row for each run against the baseline: the paired difference and its tests."""
    columns = ["run", "against", *(["of"] if grouped else []), "figure", "pairs", "tasks", "mean", "baseline",
               "difference", "relative", "won/tied/lost", "Wilcoxon p", "Holm", "success +/-", "McNemar p",
               "Holm"]  # fmt: skip
    rows = []
    for each in comparisons:
        digits = DIGITS[each.figure]
        row = [each.run, each.baseline, *([each.group] if grouped else []), each.figure]
        row += [str(each.pairs), str(each.tasks), number(each.mean, digits), number(each.baseline_mean, digits)]
        row += [interval(each.difference, digits, signed=True), interval(each.relative, 0, signed=True, percent=True)]
        row += [f"{each.wins}/{each.ties}/{each.losses}", p_value(each.wilcoxon.p), p_value(each.p_holm)]
        row += [f"+{each.mcnemar.gained}/-{each.mcnemar.lost}", p_value(each.mcnemar.p), p_value(each.mcnemar_holm)]
        rows.append(row)
    return Table(columns, rows)


def number(value: float | None, digits: int, *, signed: bool = False) -> str:
    """A number with so many digits; a dash for None."""
    if value is None:
        return NONE
    # rounded first, so that nothing prints as -0.0
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def interval(estimate: Estimate | Proportion, digits: int, *, signed: bool = False, percent: bool = False) -> str:
    """``52.1 [40.2, 63.3]``; only the value where there is no interval."""
    factor, sign = (100.0, " %") if percent else (1.0, "")
    value, low, high = (None if each is None else each * factor for each in _three(estimate))
    text = number(value, digits, signed=signed)
    if low is not None and high is not None:
        text += f" [{number(low, digits, signed=signed)}, {number(high, digits, signed=signed)}]"
    return text + (sign if value is not None else "")


def p_value(p: float | None) -> str:
    """Three digits, as ``<0.001`` below that."""
    return NONE if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


# ---- formats ----------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """A table of GitHub's Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def latex(table: Table) -> str:
    """A ``tabular`` with the rules of the package booktabs."""
    head, *rows = (" & ".join(map(_escaped, line)) + r" \\" for line in (table.columns, *table.rows))
    body = "\n".join(f"  {line}" for line in (r"\toprule", head, r"\midrule", *rows, r"\bottomrule"))
    return rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}" + "\n" + body + "\n" + r"\end{tabular}"


def csv_figures(summaries: Iterable[Summary]) -> str:
    """The figures unrounded, each with columns ``NAME``, ``NAME_low`` and ``NAME_high``; absent ones are empty."""
    return _csv([_flat_summary(each) for each in summaries])


def csv_differences(comparisons: Iterable[Comparison]) -> str:
    """The same of comparisons."""
    return _csv([_flat_comparison(each) for each in comparisons])


def _flat_summary(each: Summary) -> dict[str, Any]:
    row: dict[str, Any] = {"run": each.run, "of": each.group, "episodes": each.episodes, "tasks": each.tasks}
    row |= {"seeds_least": each.seeds[0], "seeds_most": each.seeds[1], "left_out": sum(each.left_out.values())}
    for name in ("score", "best", "success", "success_over_tasks", "steps", "working_seconds", "wall_seconds",
                 "read_tokens", "answer_tokens", "cost"):  # fmt: skip
        row |= _columns(name, getattr(each, name))
    row["cost_known"] = each.cost_known
    for one in each.pass_at:
        row |= _columns(f"pass_at_{one.k}", one.share)
    return row


def _flat_comparison(each: Comparison) -> dict[str, Any]:
    return {
        "run": each.run, "against": each.baseline, "of": each.group, "figure": each.figure, "pairs": each.pairs,
        "tasks": each.tasks, "mean": each.mean, "baseline_mean": each.baseline_mean,
        **_columns("difference", each.difference), **_columns("relative", each.relative),
        "won": each.wins, "tied": each.ties, "lost": each.losses,
        "wilcoxon_p": each.wilcoxon.p, "wilcoxon_holm": each.p_holm,
        "success_gained": each.mcnemar.gained, "success_lost": each.mcnemar.lost,
        "mcnemar_p": each.mcnemar.p, "mcnemar_holm": each.mcnemar_holm,
        "unpaired": sum(map(len, each.unpaired.values())),
    }  # fmt: skip


def _columns(name: str, estimate: Estimate | Proportion) -> dict[str, float | None]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), _three(estimate), strict=True))


def _three(estimate: Estimate | Proportion) -> tuple[float | None, float | None, float | None]:
    return estimate.value, estimate.low, estimate.high


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))  # runs may differ in their k of pass@k
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip("\n")


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
