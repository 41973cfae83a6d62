"""``hpc label``: which actions may teach."""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.label_files import policy_named, subjects, words_of
from hpc.cli.label_judge import judge
from hpc.cli.output import emit_json, emit_table, json_option, runs_option
from hpc.cli.traj_find import places_of

if TYPE_CHECKING:
    from hpc.supervision.report import Report

_TASK = 60

policy_option = click.option(
    "--policy", default="default", show_default=True, metavar="NAME", help="Policy in configs/supervision/."
)
folder_option = click.option(
    "--labels-in",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where labels of files lie that are in no run.  [default: beside them]",
)


@click.group()
def label() -> None:
    """Label actions by rules, a judge and people; compare the labellers.

    Labels lie beside the trajectories and are only ever added to. Nothing is taken out of a trajectory: an
    action that is labelled sub-optimal stays in the context and is not trained.

    Example: hpc label run my-run && hpc label report my-run
    """


@label.command()
@click.argument("targets", nargs=-1, metavar="[RUN|RUN/INDEX|FILE…]")
@runs_option
@folder_option
@click.option("--rule", "names", multiple=True, metavar="NAME", help="Only this rule; may be repeated.")
@click.option("--again", is_flag=True, help="Make the passes again that were made before.")
@click.option("--dry-run", is_flag=True, help="Say what would be labelled; write nothing.")
@json_option
def run(
    targets: tuple[str, ...],
    runs_root: Path,
    folder: Path | None,
    names: tuple[str, ...],
    again: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Label trajectories by rules, and take over what annotators said of alerts (the newest run without a name).

    Repeating it is harmless: a rule looks again only at trajectories that have grown, or when its version has.

    \b
    Examples:
      hpc label run my-run
      hpc label run my-run/3 --rule blind_retry --dry-run
      hpc label run *.traj --labels-in /tmp/labels
    """
    from hpc.supervision.run import add_words, apply_rules, rules_named

    rules = rules_named(_known(names))
    rows: list[dict[str, Any]] = []
    words: dict[Path, Any] = {}
    for subject in subjects(places_of(targets, runs_root), folder):
        applied = apply_rules(subject.past, subject.labels, rules, again=again, write=not dry_run)
        human = 0
        if subject.run is not None and not dry_run and not names:
            if subject.run.root not in words:
                words[subject.run.root] = words_of(subject.run)
            human = add_words(subject.past, subject.labels, words[subject.run.root])
        rows.append(
            {
                "trajectory": subject.name,
                "steps": len(subject.past.steps),
                "passes": applied.passes,
                "labels": applied.labels,
                "by_people": human,
            }
        )
    if as_json:
        emit_json(rows)
        return
    emit_table(["trajectory", "steps", "passes", "labels", "by_people"], [list(row.values()) for row in rows])
    total = sum(row["labels"] for row in rows)
    verb = "would be added" if dry_run else "added"
    click.echo(f"{total} labels {verb} to {len(rows)} trajectories; next: hpc label report", err=True)


def _known(names: tuple[str, ...]) -> list[str]:
    from hpc.core.errors import UsageError
    from hpc.supervision.rules import RULES

    for name in names:
        if name not in RULES:
            raise UsageError(f"--rule {name} is no rule", f"one of: {', '.join(RULES)}")
    return list(names) or list(RULES)


@label.command()
@click.argument("targets", nargs=-1, metavar="[RUN|RUN/INDEX|FILE…]")
@runs_option
@folder_option
@policy_option
@json_option
def report(targets: tuple[str, ...], runs_root: Path, folder: Path | None, policy: str, as_json: bool) -> None:
    """Say what is kept and what is dropped, by rule and by task, and how far labellers agree.

    \b
    Examples:
      hpc label report my-run
      hpc label report my-run --policy strict --json
    """
    import msgspec

    found = _report(targets, runs_root, folder, policy)
    if as_json:
        emit_json(msgspec.to_builtins(found))
        return
    share = found.kept / found.steps if found.steps else 0.0
    click.echo(
        f"{found.trajectories} trajectories, {found.steps} actions: {found.kept} trained ({share:.0%}), "
        f"{found.dropped} in the context alone (policy {policy})\n"
    )
    emit_table(
        ["labeller", "version", "sub-optimal", "optimal", "unsure", "trajectories", "alone"],
        [
            [
                line.labeller,
                line.version or "",
                line.suboptimal,
                line.optimal,
                line.unsure,
                line.trajectories,
                line.alone,
            ]
            for line in found.rules
        ],
        empty="nobody has labelled anything",
    )
    click.echo()
    emit_table(
        ["task", "trajectories", "actions", "trained", "share"],
        [[_short(line.task), line.trajectories, line.steps, line.kept, f"{line.share:.0%}"] for line in found.tasks],
    )
    if found.agreement:
        click.echo()
        emit_table(
            ["labellers", "actions", "equal", "kappa", "95 %"],
            [
                [
                    f"{one.one} / {one.other}",
                    one.steps,
                    f"{one.equal:.0%}",
                    _figure(one.kappa),
                    f"{_figure(one.low)} … {_figure(one.high)}",
                ]
                for one in found.agreement
            ],
        )


def _short(text: str) -> str:
    return text if len(text) <= _TASK else text[: _TASK - 1] + "…"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _report(targets: tuple[str, ...], runs_root: Path, folder: Path | None, policy: str) -> Report:
    from hpc.supervision import report as reports
    from hpc.supervision.policy import decide
    from hpc.trajectories.labels import read_labels

    config = policy_named(policy)
    labelled = []
    for subject in subjects(places_of(targets, runs_root), folder):
        labels = read_labels(subject.labels).current()
        steps = [step.step for step in subject.past.steps]
        labelled.append(
            reports.Labelled(
                name=subject.name,
                task=subject.task,
                steps=len(steps),
                labels=labels,
                decisions=decide(labels, steps, config),
            )
        )
    return reports.report(labelled)


@label.command()
@click.argument("targets", nargs=-1, metavar="[RUN|RUN/INDEX|FILE…]")
@runs_option
@folder_option
@click.option("--rule", "names", multiple=True, metavar="NAME", help="Only this rule; may be repeated.")
@click.option("--from", "version", type=click.IntRange(min=1), metavar="V", help="Stored version.  [default: the last]")
@json_option
def diff(
    targets: tuple[str, ...],
    runs_root: Path,
    folder: Path | None,
    names: tuple[str, ...],
    version: int | None,
    as_json: bool,
) -> None:
    """Say what the rules of this version would change in what is stored. Nothing is written.

    \b
    Examples:
      hpc label diff my-run
      hpc label diff my-run --rule edit_without_read --from 1
    """
    from hpc.supervision.run import AUTHOR, found_by, rules_named
    from hpc.trajectories.labels import read_labels

    rows: list[dict[str, Any]] = []
    for subject in subjects(places_of(targets, runs_root), folder):
        stored = read_labels(subject.labels)
        for rule in rules_named(_known(names)):
            last = stored.passes().get(("rule", AUTHOR, rule.name))
            before = version or (last.rule_version if last is not None else 0)
            old = stored.of_version(rule.name, before)
            if old is None:
                continue
            now, then = found_by(rule, subject.past), {one.step: one.reason for one in old}
            for step in sorted(now.keys() ^ then.keys()):
                change = "added" if step in now else "gone"
                rows.append(
                    {
                        "trajectory": subject.name,
                        "step": step,
                        "rule": rule.name,
                        "from": before,
                        "to": rule.version,
                        "change": change,
                        "reason": now.get(step) or then.get(step),
                    }
                )
    if as_json:
        emit_json(rows)
        return
    columns = ["trajectory", "step", "rule", "from", "to", "change", "reason"]
    emit_table(columns, [[row[column] for column in columns] for row in rows], empty="nothing would change")


@label.command()
@click.argument("target", metavar="RUN/INDEX|FILE")
@click.argument("step", type=click.IntRange(min=1))
@runs_option
@folder_option
@click.option("--verdict", type=click.Choice(["optimal", "suboptimal", "unsure"]), required=True, help="What you say.")
@click.option("--reason", required=True, help="Why, in a sentence.")
@click.option("--author", default=getpass.getuser, metavar="NAME", help="Who says so.  [default: you]")
def add(target: str, step: int, runs_root: Path, folder: Path | None, verdict: Any, reason: str, author: str) -> None:
    """Label one action by hand; your last word on a step counts.

    Example: hpc label add my-run/3 17 --verdict suboptimal --reason "trained on the test set"
    """
    from hpc.core.errors import UsageError
    from hpc.trajectories.labels import Label, add_labels

    places = places_of([target], runs_root)
    if len(places) != 1:
        raise UsageError(f"{target} is a whole run", f"name one episode: {target}/0")
    (subject,) = subjects(places, folder)
    if step not in {view.step for view in subject.past.steps}:
        raise UsageError(f"{target} has no finished step {step}", f"it has {len(subject.past.steps)}")
    entry = Label(
        step=step,
        verdict=verdict,
        reason=reason,
        author_kind="human",
        author=author,
        at=time.time(),
        source="hpc label add",
    )
    add_labels(subject.labels, [entry])
    click.echo(f"step {step} of {subject.name}: {verdict}, says {author}", err=True)


label.add_command(judge)
