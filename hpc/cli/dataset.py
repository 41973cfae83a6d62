"""``hpc dataset``: from labelled trajectories to proven training examples."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import emit_json, emit_table, json_option, runs_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpc.cli.label_files import Place
    from hpc.config.dataset import DatasetRunConfig
    from hpc.config.supervision import SupervisionConfig
    from hpc.datasets.build import Source
    from hpc.datasets.template import Template
    from hpc.trajectories.labels import Decision
    from hpc.trajectories.reader import Trajectory

GATE = 5
tokenizer_option = click.option(
    "--tokenizer", metavar="FOLDER", help="Model folder with the tokenizer.  [default: the one it was built with]"
)


@click.group()
def dataset() -> None:
    """Build datasets from trajectories, and prove what of them is trained.

    \b
    Example:
      hpc label run my-run
      hpc dataset build my-run --to data/filtered supervision=default
      hpc dataset verify data/filtered
    """


@dataset.command()
@click.argument("words", nargs=-1, metavar="[RUN|RUN/INDEX|FILE…] [OVERRIDES…]")
@runs_option
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, help="Folder to write; must not exist.")
@click.option("--dry-run", is_flag=True, help="Count what would be written; write nothing.")
@json_option
def build(words: tuple[str, ...], runs_root: Path, target: Path, dry_run: bool, as_json: bool) -> None:
    """Build a dataset from trajectories (of the newest run without a name).

    `dataset=ARM` chooses an arm of configs/dataset/, `supervision=NAME` the policy of its filter, `model=NAME` the
    model whose tokens they are. Whether guidance stays in the training context decides what is learned:
    `dataset.guidance=keep|drop|random`.

    \b
    Examples:
      hpc dataset build my-run --to data/guided dataset=guided-filtered dataset.guidance=drop
      hpc dataset build run-a run-b --to data/own dataset=own dataset.min_score=50
      hpc dataset build my-run --to data/x --dry-run --json dataset=filtered supervision=minilab
    """
    import msgspec

    import hpc
    from hpc.config import compose
    from hpc.config.dataset import DatasetRunConfig
    from hpc.core.errors import DatasetError
    from hpc.core.provenance import git_state
    from hpc.datasets.build import Builder, describe
    from hpc.datasets.build import build as write

    config = compose("dataset", [word for word in words if "=" in word])
    assert isinstance(config, DatasetRunConfig)
    if target.exists():
        raise DatasetError(f"{target} exists already", "choose another folder, or remove it")
    sources = _sources([word for word in words if "=" not in word], runs_root)
    builder = Builder(_template(_folder(config)), config.dataset, _decider(config.supervision))
    extra = {
        "supervision": msgspec.to_builtins(config.supervision),
        "rules": _rule_versions(),
        "git": git_state(Path(hpc.__file__)),
        "tokenizer_folder": str(_folder(config)),
    }
    with _progress("building", len(sources)) as advance:
        if dry_run:
            for _ in builder.examples(_counted(sources, advance)):
                pass
        else:
            write(target, builder, _counted(sources, advance), extra, lambda: None)
    counts = builder.counts
    if as_json:
        emit_json({"target": str(target), "dry_run": dry_run, **msgspec.to_builtins(counts)})
        return
    rows = [
        [what, reason, number]
        for what, counter in (
            ("episodes", counts.episodes),
            ("steps", counts.steps),
            ("examples", counts.examples),
            ("guidance", counts.guidance),
        )
        for reason, number in counter.most_common()
    ]
    emit_table(["what", "became", "count"], rows)
    share = counts.trained_tokens / counts.tokens if counts.tokens else 0.0
    click.echo(
        f"{describe(counts)}; {counts.tokens} tokens, {share:.1%} of them trained; "
        + ("nothing was written" if dry_run else f"next: hpc dataset verify {target}"),
        err=True,
    )


def _sources(targets: list[str], runs_root: Path) -> list[Source]:
    from hpc.cli.label_files import places_of
    from hpc.datasets.build import Source
    from hpc.trajectories.reader import Trajectory

    def source(place: Place) -> Source:
        where = (place.run, place.number) if place.run is not None else place.path
        return Source(place.name, place.path, lambda: Trajectory.open(where))

    return [source(place) for place in places_of(targets, runs_root)]


def _counted(sources: list[Source], advance: Callable[[], None]) -> Iterator[Source]:
    for source in sources:
        yield source
        advance()


def _decider(policy: SupervisionConfig) -> Callable[[Trajectory], Mapping[int, Decision]]:
    """What the policy makes of the labels that lie beside a trajectory.

    A trajectory that no rule has looked at is refused: it would pass the filter whole.
    """
    from hpc.core.errors import UsageError
    from hpc.supervision.policy import decide
    from hpc.trajectories.labels import labels_path, read_labels

    def decisions(trajectory: Trajectory) -> Mapping[int, Decision]:
        labels = read_labels(labels_path(trajectory.path))
        if not labels.entries:
            raise UsageError(
                f"{trajectory.path} has no labels, and the filter needs them",
                "run `hpc label run` first, or build without it: dataset.filter=false",
            )
        return decide(labels.current(), range(1, len(trajectory.steps) + 1), policy)

    return decisions


def _rule_versions() -> dict[str, int]:
    from hpc.supervision.rules import RULES

    return {name: rule.version for name, rule in RULES.items()}


def _folder(config: DatasetRunConfig) -> Path:
    from hpc.serving.preflight import resolve_model

    return Path(resolve_model(config.model.tokenizer or config.model.path))


def _template(folder: Path) -> Template:
    from hpc.datasets.template import Template

    return Template(folder)


@dataset.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@tokenizer_option
@click.option("--samples", type=click.IntRange(min=0), default=1, show_default=True, help="Examples to print.")
@json_option
def verify(folder: Path, tokenizer: str | None, samples: int, as_json: bool) -> None:
    """Prove that exactly whole answers of the agent are trained. Exit status 5 on any fault.

    Prints a sample: what is trained in green, the context dim.

    Example: hpc dataset verify data/guided
    """
    from hpc.datasets.verify import sample
    from hpc.datasets.verify import verify as prove
    from hpc.examples import Dataset, Manifest

    manifest = Manifest.read(folder / "manifest.json")
    template = _template(Path(tokenizer or str(manifest.about.get("tokenizer_folder", ""))))
    total = sum(entry.examples for entry in manifest.shards)
    with _progress("verifying", total) as advance:
        proof = prove(folder, template, on_example=advance)
    if as_json:
        emit_json({**proof._asdict(), "faults": [fault._asdict() for fault in proof.faults]})
    else:
        if samples and not any(fault.kind in ("unreadable", "missing shard") for fault in proof.faults):
            from rich.console import Console

            with Dataset(folder, split=None) as data:
                for number in range(min(samples, len(data))):
                    Console(highlight=False).print(sample(data[number], template), soft_wrap=True)
                    click.echo()
        emit_table(["fault", "example", "what"], [list(fault) for fault in proof.faults], empty="no fault")
        click.echo(
            f"{proof.examples} examples, {proof.spans} trained spans, {proof.trained_tokens} trained tokens: "
            + (f"{proof.total} faults" if proof.total else "proven"),
            err=True,
        )
    if proof.total or not proof.examples:
        raise SystemExit(GATE)


@dataset.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
def stats(folder: Path, as_json: bool) -> None:
    """Show what a dataset is made of: splits, tasks, lengths, and what was left out.

    Example: hpc dataset stats data/guided
    """
    import numpy as np

    from hpc.examples import Dataset, Manifest

    manifest = Manifest.read(folder / "manifest.json")
    rows: list[dict[str, Any]] = []
    for split in dict.fromkeys(entry.split for entry in manifest.shards):
        with Dataset(folder, split=split) as data:
            lengths = data.lengths
            trained = sum(entry.trained_tokens for entry in data.shards)
            rows.append(
                {
                    "split": split,
                    "examples": len(data),
                    "tokens": int(lengths.sum()),
                    "trained": round(trained / int(lengths.sum()), 4),
                    "shortest": int(lengths.min()),
                    "median": int(np.median(lengths)),
                    "longest": int(lengths.max()),
                    "tasks": len({str(example.meta.get("task_id")) for example in data}),
                }
            )
    if as_json:
        emit_json({"splits": rows, "content": manifest.content, "about": manifest.about})
        return
    emit_table(list(rows[0]), [list(row.values()) for row in rows])
    counts = manifest.about.get("counts", {})
    click.echo()
    emit_table(
        ["what", "became", "count"],
        [
            [what, reason, number]
            for what in ("episodes", "steps", "examples", "guidance")
            for reason, number in counts.get(what, {}).items()
        ],
        empty="the manifest does not say what was left out",
    )


@dataset.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@json_option
def ls(folder: Path, as_json: bool) -> None:
    """List the datasets in FOLDER (this one without a name) and below it.

    Example: hpc dataset ls data
    """
    from hpc.core.errors import DatasetError
    from hpc.examples import Manifest

    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("**/manifest.json")):
        try:
            manifest = Manifest.read(path)
        except DatasetError:
            continue  # the manifest of a run, or of something else
        options = manifest.about.get("dataset", {})
        rows.append(
            {
                "dataset": str(path.parent),
                "arm": options.get("arm", ""),
                "guidance": options.get("guidance", ""),
                "examples": sum(entry.examples for entry in manifest.shards),
                "tokens": sum(entry.tokens for entry in manifest.shards),
                "trained": sum(entry.trained_tokens for entry in manifest.shards),
                "content": manifest.content[:12],
            }
        )
    if as_json:
        emit_json(rows)
        return
    columns = ["dataset", "arm", "guidance", "examples", "tokens", "trained", "content"]
    emit_table(columns, [list(row.values()) for row in rows], empty=f"no dataset in {folder}")


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
