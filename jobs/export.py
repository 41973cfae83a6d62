"""``python -P -m jobs.export RUN STEP FOLDER``: a checkpoint as Hugging Face weights; also a job of a campaign."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

import msgspec

from hpc.config.train import TrainRunConfig
from hpc.core.errors import HpcError
from hpc.core.logs import setup_logging
from hpc.rundir import RunDir
from hpc.slurm import Allocation
from hpc.training.shelf import shelf_of


class ExportJob(msgspec.Struct, frozen=True):
    """Exports one checkpoint of its run.

    ``which``: a step, ``best``, or None for the newest. ``target``: None for the run's own folder of exports.
    ``dtype``: precision of the tensors; None: the source's. ``adapters``: these alone.
    """

    which: str | None = None
    target: str | None = None
    dtype: str | None = None
    adapters: bool = False

    def __call__(self, run: RunDir, allocation: Allocation) -> int:
        """0 when the folder is whole, also when an earlier start made it.

        Raises:
            CheckpointNotFound: there is no such checkpoint.
            ExportFailed: it cannot be converted or written.
        """
        step = shelf_of(run).find(self.which).step
        target = Path(self.target) if self.target is not None else run.export(step)
        if not target.exists():
            export(run, step, target, self.dtype, adapters=self.adapters)
        return 0


def export(run: RunDir, step: int, target: Path, dtype: str | None = None, *, adapters: bool = False) -> None:
    """The folder appears when it is whole."""
    from hpc.training.platform import prepare

    prepare()  # before megatron is imported
    from hpc.training.session import export_weights

    config = msgspec.convert(run.read_config(), TrainRunConfig)
    export_weights(config, shelf_of(run).find(str(step)), target, run=run.name, dtype=dtype, adapters=adapters)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 when the folder is whole."""
    parser = argparse.ArgumentParser(prog="python -P -m jobs.export", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("step", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype")
    parser.add_argument("--adapters", action="store_true")
    arguments = parser.parse_args(argv)
    setup_logging(1)
    logging.getLogger("megatron").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="megatron")
    try:
        run, adapters = RunDir(arguments.run), arguments.adapters
        export(run, arguments.step, arguments.folder, arguments.dtype, adapters=adapters)
    except HpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
