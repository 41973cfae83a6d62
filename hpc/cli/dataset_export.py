"""``hpc dataset export``: a dataset in the forms that other trainers read."""

from __future__ import annotations

from pathlib import Path

import click

from hpc.cli.output import bar, emit_json, json_option


@click.command("export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--format", "form", type=click.Choice(["parquet", "jsonl"]), required=True, help="What to write.")
@click.option(
    "--for",
    "reader",
    type=click.Choice(["trl", "axolotl", "slime", "verl"]),
    default="trl",
    show_default=True,
    help="Whose field names the rows of JSONL have.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@click.option("--split", default="train", show_default=True, help="Which split.")
@click.option("--overwrite", is_flag=True, help="Replace what is at --out.")
@json_option
def export_command(folder: Path, form: str, reader: str, out: Path, split: str, overwrite: bool, as_json: bool) -> None:
    """Write a split for other trainers; what the form cannot hold is named on stderr (--json: `lost`).

    Parquet has messages, tools, loss_mask (one number a message), tokens and token_loss_mask. JSONL for
    trl and axolotl has tokens and labels; for slime messages with step_loss_mask; for verl messages
    alone, so examples with answers that are context only are left out.

    \b
    Examples:
      hpc dataset export datasets/guided --format parquet --out guided.parquet
      hpc dataset export datasets/guided --format jsonl --for axolotl --out guided.jsonl
    """
    import msgspec

    from hpc.datasets.export import export
    from hpc.datasets.statistics import summary

    with bar("exporting", summary(folder).examples.get(split, 0), hidden=as_json) as advance:
        done = export(
            folder, out, parquet=form == "parquet", reader=reader, split=split, overwrite=overwrite, on_example=advance
        )
    if as_json:
        emit_json({"out": str(out), **msgspec.to_builtins(done)})
        return
    click.echo(f"wrote {done.written} examples to {out}")
    for reason, count in done.left_out.items():
        click.echo(f"note: {count} examples left out: {reason}", err=True)
    for what in done.lost:
        click.echo(f"note: lost: {what}", err=True)
