"""What every verb prints: tables for people, JSON for programs; and finding a run by name."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from hpc.core.errors import UsageError
from hpc.rundir import RunDir, runs_under

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
runs_option = click.option(
    "--runs",
    "runs_root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    envvar="HPC_RUNS",
    show_default=True,
    help="Folder that holds the run directories.",
)


def emit_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "nothing to show") -> None:
    """Print a table; into a pipe, tab-separated lines without decoration."""
    listed = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in listed:
            click.echo("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    if not listed:
        click.echo(empty, err=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in listed:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    Console().print(table)


def find_run(name: str | None, root: Path) -> RunDir:
    """The run called ``name`` (a name under ``root`` or a path); the newest one without a name.

    Raises:
        UsageError: there is none.
    """
    if name is not None:
        by_path = Path(name)
        return RunDir.open(by_path if (by_path / "config.json").is_file() else root / name)
    newest_first = runs_under(root)
    if not newest_first:
        raise UsageError(f"no runs under {root}", "start one with `hpc episodes submit`, or name its folder")
    return newest_first[0]


@contextlib.contextmanager
def bar(what: str, total: int, *, hidden: bool = False) -> Iterator[Callable[[], None]]:
    """A bar on stderr, for people only."""
    if hidden or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda: shown.advance(task)
