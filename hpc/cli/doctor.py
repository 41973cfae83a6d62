"""``hpc doctor``: is this machine fit, and how to mend what is not."""

from __future__ import annotations

import os
from pathlib import Path

import click

from hpc.cli.output import emit_json, emit_table, json_option, runs_option


@click.command()
@click.argument("overrides", nargs=-1)
@runs_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, overrides: tuple[str, ...], runs_root: Path, as_json: bool) -> None:
    """Check this machine and cluster; say how to mend what is wrong.

    OVERRIDES choose the configuration to check for, such as `annotators=slack runtime=cuda`. Exits
    with 0 when nothing fails (warnings are allowed), else with 1.

    Example: hpc doctor cluster=slurm annotators=slack
    """
    import msgspec

    from hpc.cli.doctor_checks import Subject, examine
    from hpc.config import compose

    config = compose("episodes", overrides)
    findings = examine(Subject(config=config, runs=runs_root.absolute(), environ=os.environ))
    if as_json:
        emit_json(msgspec.to_builtins(findings))
    else:
        columns = ["check", "status", "found", "mend"]
        emit_table(columns, [[item.check, item.status, item.message, item.mend] for item in findings])
    if any(item.status == "fail" for item in findings):
        ctx.exit(1)
