"""What the verbs of `hpc inbox` share: whom they ask, and under which name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import find_run

if TYPE_CHECKING:
    from hpc.router.client import InboxClient
    from hpc.rundir import RunDir

run_option = click.option("--run", "run_name", metavar="RUN", help="The run; without it the newest one.")
as_option = click.option(
    "--as",
    "annotator",
    metavar="NAME",
    envvar="HPC_ANNOTATOR",
    default=None,
    help="Your name; by default your login. [env: HPC_ANNOTATOR]",
)


def run_of(run_name: str | None, runs_root: Path, target: str) -> RunDir:
    """The named run; else the one which ``target``, an alert or an episode, is of; else the newest one."""
    if run_name is None and (found := re.match(r"(.+)-\d{5,}(-|$)", target)):
        named = found.group(1)
        run_name = named if (runs_root / named / "config.json").is_file() else None
    return find_run(run_name, runs_root)


def open_inbox(run: RunDir) -> InboxClient:
    """A connection to the run's router."""
    from hpc.router.client import InboxClient

    return InboxClient(run)


def ask(run_name: str | None, runs_root: Path, target: str = "") -> InboxClient:
    """A connection to the router of the run that `run_of` finds."""
    return open_inbox(run_of(run_name, runs_root, target))


def builtins(value: Any) -> Any:
    """Structs as plain values, for JSON."""
    import msgspec

    return msgspec.to_builtins(value)
