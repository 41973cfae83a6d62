"""The command line: nouns, then verbs. Each noun is a module here, imported only when it is used."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from hpc import __version__
from hpc.core.errors import HpcError

NOUNS: dict[str, tuple[str, str]] = {
    "checkpoint": ("hpc.cli.checkpoint:checkpoint", "List checkpoints of trainings and export them."),
    "config": ("hpc.cli.config:config", "Show and list configurations."),
    "dataset": ("hpc.cli.dataset:dataset", "Build datasets from trajectories; prove what is trained."),
    "doctor": ("hpc.cli.doctor:doctor", "Check this machine and cluster; say how to mend what is wrong."),
    "drift": ("hpc.cli.drift:drift", "Measure drift detectors on stored trajectories; choose their limits."),
    "episodes": ("hpc.cli.episodes:episodes", "Submit agent episodes and follow them."),
    "eval": ("hpc.cli.eval:evaluation", "Figures of evaluated runs, compared in pairs; gates."),
    "inbox": ("hpc.cli.inbox:inbox", "Read alerts and answer them from this terminal."),
    "label": ("hpc.cli.label:label", "Label actions by rules, a judge and people; compare the labellers."),
    "router": ("hpc.cli.router:router", "Start, watch and stop a run's guidance router."),
    "run": ("hpc.cli.run:run", "List, watch, cancel and clean runs."),
    "server": ("hpc.cli.server:server", "Launch vLLM servers and watch them."),
    "task": ("hpc.cli.task:task", "List tasks and print an expert sheet."),
    "train": ("hpc.cli.train:train", "Train models on Megatron-core and follow it."),
    "traj": ("hpc.cli.traj:traj", "List, show and check stored trajectories."),
}


class _Nouns(click.Group):
    """Imports a noun's module when it is invoked, so that ``hpc --help`` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in NOUNS:
            return None
        module, attribute = NOUNS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(noun, NOUNS[noun][1]) for noun in sorted(NOUNS)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.format_message()} Known: {', '.join(sorted(NOUNS))}.", ctx) from error


@click.group(
    cls=_Nouns,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: hpc episodes submit run.name=first run.episodes=16 --watch",
)
@click.option("-v", "--verbose", count=True, help="More log lines on stderr (-vv for debug).")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="hpc")
@click.pass_context
def cli(ctx: click.Context, verbose: int, debug: bool) -> None:
    """Apollo-HPC: long-horizon LLM agents on Slurm, guided by people when they drift.

    A noun, then a verb; a bare noun lists. Data goes to stdout, logs to stderr. Hydra overrides
    such as `server=tiny agent.max_steps=50` follow the options.

    Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 partly failed, 4 cluster, 5 gate says
    no, 6 inconclusive, 130 interrupted.
    """
    from hpc.core.logs import setup_logging

    setup_logging(verbose)
    ctx.obj = {"debug": debug}


def main(argv: list[str] | None = None) -> Any:
    """Entry point of the ``hpc`` command and of ``python -m hpc.cli``."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code = cli.main(args=arguments, prog_name="hpc", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort) as error:
        declined = not _by_interrupt(error)
        click.echo("nothing was done" if declined else "interrupted", err=True)
        sys.exit(1 if declined else 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if "--debug" in arguments:
            raise
        files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        click.echo(f"error: {': '.join(filter(None, [files, error.strerror or str(error)]))}", err=True)
        sys.exit(1)
    except HpcError as error:
        if "--debug" in arguments:
            raise
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"  fix: {error.hint}", err=True)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _by_interrupt(error: BaseException) -> bool:
    """Whether ^C is behind the error; click makes the same `Abort` of it as of a declined confirmation."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause is not None
