"""``hpc config``: what a command would run with."""

from __future__ import annotations

import click

from hpc.cli.output import emit_json, emit_table, json_option


@click.group(invoke_without_command=True)
@click.pass_context
def config(ctx: click.Context) -> None:
    """Show and list configurations. Without a verb: list.

    Example: hpc config show episodes experiment=demo
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@config.command()
@click.argument("kind")
@click.argument("overrides", nargs=-1)
@json_option
def show(kind: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the composed, validated configuration of KIND.

    Example: hpc config show episodes task=minilab agent.max_steps=50
    """
    from hpc.config import compose, to_builtins

    value = to_builtins(compose(kind, overrides))
    if as_json:
        emit_json(value)
        return
    from omegaconf import OmegaConf

    click.echo(OmegaConf.to_yaml(OmegaConf.create(value)), nl=False)


@config.command("list")
@json_option
def list_(as_json: bool = False) -> None:
    """List the kinds and the options of every group.

    Folders named by HPC_CONFIG_PATH (colon-separated) are searched first.

    Example: hpc config list --json
    """
    from hpc.config import list_configs

    groups = list_configs()
    if as_json:
        emit_json(groups)
        return
    emit_table(["group", "options"], [[group or "(kinds)", " ".join(options)] for group, options in groups.items()])
