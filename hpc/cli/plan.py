"""What a launch prints; of a dry run, the exact batch scripts and the resolved configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hpc.cli.output import emit_json

if TYPE_CHECKING:
    from hpc.launch import Launch


def tell_launch(launch: Launch, as_json: bool) -> None:
    """What a launch did: for people on stderr, with the next command, or for programs."""
    if as_json:
        emit_json(launch.summary())
        return
    for line in launch.describe():
        click.echo(line, err=True)


def print_plan(launch: Launch, as_json: bool) -> None:
    """Scripts and configuration on stdout; on stderr what the launch itself would be refused for here."""
    for problem in launch.problems:
        click.echo(f"note: on this machine the launch would be refused: {problem.message}", err=True)
        if problem.hint:
            click.echo(f"  fix: {problem.hint}", err=True)
    if as_json:
        problems = [{"message": problem.message, "fix": problem.hint} for problem in launch.problems]
        emit_json({**launch.summary(), "scripts": launch.scripts, "config": launch.config, "problems": problems})
        return
    from omegaconf import OmegaConf

    for name, scripts in launch.scripts.items():
        for number, script in enumerate(scripts):
            click.echo(f"# ==== {name} ({number + 1} of {len(scripts)})")
            click.echo(script.rstrip())
    click.echo("# ==== configuration")
    click.echo(OmegaConf.to_yaml(OmegaConf.create(launch.config)), nl=False)
