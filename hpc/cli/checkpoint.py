"""``hpc checkpoint``: what trainings have saved, and its way back to Hugging Face weights."""

from __future__ import annotations

import time
from pathlib import Path

import click

from hpc.cli.output import emit_json, emit_table, find_run, json_option, runs_option

COLUMNS = ["step", "loss", "validation", "size", "written", "best", "path"]


@click.group(invoke_without_command=True)
@runs_option
@click.pass_context
def checkpoint(ctx: click.Context, runs_root: Path) -> None:
    """List checkpoints and export them. Without a verb: list those of the newest run.

    Example: hpc checkpoint export my-run@200
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(ls, run_name=None, runs_root=runs_root)


@checkpoint.command()
@click.argument("run_name", required=False, metavar="[RUN]")
@runs_option
@json_option
def ls(run_name: str | None, runs_root: Path, as_json: bool = False) -> None:
    """List the whole checkpoints of RUN (the newest run without a name).

    Example: hpc checkpoint ls my-run
    """
    import msgspec

    from hpc.training.shelf import shelf_of

    shelf = shelf_of(find_run(run_name, runs_root))
    found, best = shelf.stable(), shelf.best()
    if as_json:
        marked = best.step if best is not None else None
        emit_json([{**msgspec.to_builtins(each), "best": each.step == marked} for each in found])
        return
    rows = [
        [
            each.step,
            "" if each.loss is None else f"{each.loss:.4f}",
            "" if each.validation_loss is None else f"{each.validation_loss:.4f}",
            f"{each.bytes / 1e6:.1f} MB",
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.created_at)),
            "best" if best is not None and each.step == best.step else "",
            each.path,
        ]
        for each in found
    ]
    emit_table(COLUMNS, rows, empty="no whole checkpoint yet")


@checkpoint.command()
@click.argument("reference", metavar="RUN[@STEP]")
@runs_option
@click.option("--to", "target", type=click.Path(path_type=Path), help="Folder to write; default: RUN/exports/STEP.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Precision of the weights; default: that of the model which training began from.",
)
@click.option("--adapters", is_flag=True, help="Of a training with lora=on: the adapters alone, for peft and vLLM.")
@click.option("--dry-run", is_flag=True, help="Say what would be written; write nothing.")
@json_option
def export(
    reference: str,
    runs_root: Path,
    target: Path | None,
    dtype: str | None,
    adapters: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write a checkpoint as Hugging Face weights with tokenizer and chat template, ready to serve.

    STEP is a step, best or latest (the default).

    \b
    Examples:
      hpc checkpoint export my-run
      hpc checkpoint export my-run@best --to models/mine
      hpc checkpoint export my-run --adapters --to adapters/mine
    """
    from hpc.launch_train import export_checkpoint, find_checkpoint

    found = find_checkpoint(reference, runs_root)
    where = (target or found.run.export(found.checkpoint.step)).absolute()
    if not dry_run:
        export_checkpoint(found, where, dtype=dtype, adapters=adapters)
    if as_json:
        emit_json({"run": found.run.name, "step": found.checkpoint.step, "export": str(where), "dry_run": dry_run})
        return
    click.echo(
        f"{'would export' if dry_run else 'exported'} step {found.checkpoint.step} of {found.run.name}", err=True
    )
    click.echo(where)
