"""``hpc dataset``: training sets from stored trajectories, and the proof that they train what they should."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.dataset_export import export_command
from hpc.cli.output import bar, emit_json, emit_table, json_option, runs_option
from hpc.cli.traj_find import places_of

if TYPE_CHECKING:
    from hpc.config.dataset import DatasetConfig
    from hpc.config.supervision import SupervisionConfig
    from hpc.datasets.builder import Report
    from hpc.datasets.verify import Verified
    from hpc.trajectories.labels import Decision
    from hpc.trajectories.reader import Trajectory

SHOWN = 8
GATE_SAYS_NO = 5

root_option = click.option(
    "--to",
    "root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("datasets"),
    envvar="HPC_DATASETS",
    show_default=True,
    help="Folder that holds the datasets.",
)
folder_argument = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
model_option = click.option(
    "--model",
    metavar="FOLDER",
    help="Model whose tokenizer and chat template to use; default: the one that the dataset names.",
)


@click.group(invoke_without_command=True)
@click.pass_context
def dataset(ctx: click.Context) -> None:
    """Build training sets from trajectories and prove them. Without a verb: list.

    Example: hpc dataset build my-run --name guided dataset=interaction_filter
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(ls)


@dataset.command()
@click.argument("arguments", nargs=-1, required=True, metavar="SOURCES… [OVERRIDES]")
@click.option("--name", required=True, help="Name of the dataset: its folder under --to.")
@root_option
@runs_option
@click.option("--dry-run", is_flag=True, help="Count and prove everything, write nothing.")
@json_option
@click.pass_context
def build(
    ctx: click.Context,
    arguments: tuple[str, ...],
    name: str,
    root: Path,
    runs_root: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build one arm from trajectories: runs, RUN/INDEX or files.

    OVERRIDES choose the arm: dataset=NAME, dataset.KEY=VALUE (hpc config list dataset). What an arm
    leaves out is counted with the reason, here and in the manifest. Exit code: 0 built, 3 some sources
    could not be read, 1 nothing was built.

    \b
    Examples:
      hpc dataset build my-run --name all
      hpc dataset build run-a run-b --name guided dataset=interaction_filter dataset.outcome.at_least=80 --dry-run
      hpc dataset build my-run --name half dataset=interaction_all dataset.guidance=sometimes
    """
    from hpc.config import compose
    from hpc.config.dataset import DatasetBuildConfig
    from hpc.datasets.builder import build as build_dataset
    from hpc.datasets.chat import Chat

    targets, overrides = _split(arguments)
    root_config = compose("dataset", overrides)
    assert isinstance(root_config, DatasetBuildConfig)
    config = root_config.dataset
    sources = [place.path for place in places_of(targets, runs_root)]
    decide, about = _policy(root_config.supervision)
    with bar("building", len(sources), hidden=as_json) as advance:
        report = build_dataset(
            sources,
            None if dry_run else root / name,
            config,
            Chat.load(config.model),
            decide,
            name=name,
            about=about,
            on_source=lambda report: advance(),
        )
    if as_json:
        emit_json({"folder": str(root / name), "dry_run": dry_run, "arm": config.arm, **report.plain()})
    else:
        _tell(report, config, root / name, dry_run)
    ctx.exit(0 if not report.failed else 3 if report.examples else 1)


@dataset.command()
@folder_argument
@model_option
@click.option("--no-sources", is_flag=True, help="Do not compare with the trajectories.")
@click.option("--sample", type=click.IntRange(0), default=1, show_default=True, help="Examples to print, coloured.")
@json_option
@click.pass_context
def verify(ctx: click.Context, folder: Path, model: str | None, no_sources: bool, sample: int, as_json: bool) -> None:
    """Prove that a dataset trains whole answers of the assistant, and nothing else.

    Every trained span is found again in the tokens by the chat template's turns and decoded; its
    end-of-turn token must be inside. Where the trajectories are at hand, the tokens must be theirs.
    Exit code: 0 proven, 5 not.

    \b
    Examples:
      hpc dataset verify datasets/guided
      hpc dataset verify datasets/guided --model models/mine --sample 3
    """
    import msgspec

    from hpc.datasets.chat import Chat
    from hpc.datasets.sample import coloured
    from hpc.datasets.statistics import summary
    from hpc.datasets.verify import verify as verify_dataset
    from hpc.examples import Example

    named = summary(folder)
    chat = Chat.load(model or _model_of(folder))
    shown: list[Example] = []

    with bar("verifying", sum(named.examples.values()), hidden=as_json) as advance:

        def look(example: Example) -> None:
            advance()
            if len(shown) < sample:
                shown.append(example)

        found = verify_dataset(folder, chat, sources=not no_sources, on_example=look)
    if as_json:
        emit_json({"folder": str(folder), "ok": found.ok, "arm": named.arm, **msgspec.to_builtins(found)})
    else:
        for example in shown:
            click.echo(coloured(example, chat))
        _tell_found(found, folder)
    ctx.exit(0 if found.ok else GATE_SAYS_NO)


@dataset.command()
@folder_argument
@json_option
def stats(folder: Path, as_json: bool) -> None:
    """Show what is in a dataset, and what its build left out and why.

    Example: hpc dataset stats datasets/guided
    """
    from hpc.datasets.statistics import statistics

    value = statistics(folder)
    if as_json:
        emit_json(value)
        return
    emit_table(
        ["split", "examples", "tasks", "tokens", "trained", "answers", "context only", "length min/median/p95/max"],
        [
            [
                split,
                row["examples"],
                row["tasks"],
                row["tokens"],
                f"{row['trained_tokens']} ({row['trained_tokens'] / row['tokens']:.0%})",
                row["trained_answers"],
                row["context_only_answers"],
                "/".join(str(length) for length in row["length"].values()),
            ]
            for split, row in value["splits"].items()
        ],
    )
    click.echo(f"arm {value['arm']}, guidance in the training context: {value['guidance']}", err=True)
    _reasons(value["counts"])


@dataset.command("ls")
@root_option
@json_option
def ls(root: Path = Path("datasets"), as_json: bool = False) -> None:
    """List datasets, newest first.

    Example: hpc dataset ls --to datasets
    """
    import msgspec

    from hpc.datasets.statistics import datasets_under

    found, broken = datasets_under(root)
    if as_json:
        emit_json([msgspec.to_builtins(each) for each in found])
    else:
        emit_table(
            ["name", "arm", "guidance", "filter", "examples", "tokens", "trained"],
            [
                [
                    each.name,
                    each.arm,
                    each.guidance,
                    {True: "yes", False: "no"}.get(each.filter, ""),  # type: ignore[arg-type]
                    " ".join(f"{split}:{count}" for split, count in each.examples.items()),
                    each.tokens,
                    f"{each.trained_tokens / max(each.tokens, 1):.0%}",
                ]
                for each in found
            ],
            empty=f"no datasets under {root}",
        )
    for name, why in broken.items():
        click.echo(f"note: {name}: {why}", err=True)


dataset.add_command(export_command)


# ---- what is meant ----------------------------------------------------------------------------


def _split(arguments: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Sources, and overrides: what holds ``=`` and is no file."""
    from hpc.core.errors import UsageError

    overrides = [each for each in arguments if "=" in each and not Path(each).exists()]
    targets = [each for each in arguments if each not in overrides]
    if not targets:
        raise UsageError("no source to build from", "name runs, RUN/INDEX or trajectory files")
    return targets, overrides


def _policy(policy: SupervisionConfig) -> tuple[Callable[[Trajectory], Mapping[int, Decision]], Mapping[str, Any]]:
    """The label policy's decisions, and its versions for the manifest.

    A trajectory that nobody has labelled is refused by them: it would pass the filter whole.
    """
    from hpc.config import to_builtins
    from hpc.core.errors import UsageError
    from hpc.supervision.policy import decide
    from hpc.supervision.rules import RULES
    from hpc.trajectories.labels import labels_path, read_labels

    def decisions(trajectory: Trajectory) -> Mapping[int, Decision]:
        labels = read_labels(labels_path(trajectory.path))
        if not labels.entries:
            raise UsageError(
                f"{trajectory.path} has no labels, and the filter needs them",
                "run `hpc label run` first, or build without it: dataset.filter=false",
            )
        return decide(labels.current(), range(1, len(trajectory.steps) + 1), policy)

    versions = {name: rule.version for name, rule in RULES.items()}
    return decisions, {"supervision": to_builtins(policy), "rules": versions}


def _model_of(folder: Path) -> str:
    from hpc.core.errors import DatasetError
    from hpc.examples import MANIFEST
    from hpc.examples.manifest import Manifest

    model = (Manifest.read(folder / MANIFEST).about.get("tokenizer") or {}).get("model")
    if not model:
        raise DatasetError(f"the manifest of {folder} names no model", "name it: --model FOLDER")
    return str(model)


# ---- what is printed --------------------------------------------------------------------------


def _tell(report: Report, config: DatasetConfig, folder: Path, dry_run: bool) -> None:
    examples = ", ".join(f"{count} {split}" for split, count in report.examples.items()) or "no"
    verb = "would write" if dry_run else "wrote"
    click.echo(
        f"{verb} {folder}: {examples} examples of {report.episodes_used} of {report.episodes} episodes, "
        f"{report.tokens} tokens, {report.trained_tokens} trained in {report.trained_answers} answers"
    )
    _reasons(report.plain())
    for name, why in list(report.failed.items())[:SHOWN]:
        click.echo(f"error: {name}: {why}", err=True)
    if report.examples and not dry_run:
        click.echo(f"next: hpc dataset verify {folder}", err=True)


def _reasons(counts: Mapping[str, Any]) -> None:
    """Why episodes, examples and answers were left out."""
    for key, what in (
        ("left_out", "episodes left out"),
        ("refused", "examples refused"),
        ("context_only", "answers as context only"),
        ("guidance", "guidance turns"),
    ):
        for reason, count in sorted((counts.get(key) or {}).items(), key=lambda item: -item[1]):
            if count:
                click.echo(f"note: {count} {what}: {reason}", err=True)
    for key, what in (("duplicates", "duplicates left out"), ("cut", "examples cut to the limit")):
        if counts.get(key):
            click.echo(f"note: {counts[key]} {what}", err=True)


def _tell_found(found: Verified, folder: Path) -> None:
    for finding in found.findings:
        place = f"{finding.example}: " if finding.example else ""
        click.echo(f"fault: {place}{finding.fault}{f' ({finding.detail})' if finding.detail else ''}", err=True)
    if (more := sum(found.faults.values()) - len(found.findings)) > 0:
        click.echo(f"fault: and {more} more", err=True)
    for why, count in found.not_compared.items():
        click.echo(f"note: {count} examples not compared with their trajectory: {why}", err=True)
    verdict = "proven" if found.ok else "NOT proven"
    click.echo(
        f"{verdict}: {folder}: {found.examples} examples, {found.trained_answers} trained answers, "
        f"{found.trained_tokens} of {found.tokens} tokens; {found.compared} compared with their trajectories"
    )
