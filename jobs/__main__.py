"""``python -P -m jobs ELEMENTS_FILE``: what the scheduler starts. Runs one element of a job."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hpc.core.errors import ConfigError, HpcError, UsageError
from hpc.core.logs import setup_logging
from hpc.slurm import own, runner
from jobs import KINDS


def resolve(kind: str) -> Callable[[dict[str, Any]], runner.Work]:
    """From a payload to the job of this kind.

    Args:
        kind: a key of `jobs.KINDS`, or ``module:Class`` of a struct like those.

    Raises:
        ConfigError: no such kind.
    """
    where = KINDS.get(kind, kind)
    module, _, name = where.partition(":")
    if not name:
        raise ConfigError(f"unknown job kind {kind!r}", f"one of: {', '.join(sorted(KINDS))}")

    def load(payload: dict[str, Any]) -> runner.Work:
        struct = getattr(importlib.import_module(module), name)
        try:
            work: runner.Work = msgspec.convert(payload, struct)
        except msgspec.ValidationError as error:
            raise ConfigError(f"payload of the kind {kind!r}: {error}", "submit the job again") from error
        return work

    return load


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -P -m jobs", description=__doc__)
    parser.add_argument("manifest", type=Path, help="elements/<job>.json of a run directory")
    parser.add_argument("--offset", type=int, default=0, help="element of the array index 0")
    parser.add_argument("--pack", type=int, default=1, help="elements per array index")
    parser.add_argument("--index", type=int, help="run this element, whatever the array index")
    parser.add_argument("--in-pool", type=int, metavar="PID", help="the pool that started this process")
    parser.add_argument("--job-id", default="", help="with --in-pool: the element's id")
    parser.add_argument("--restarts", type=int, default=0, help="with --in-pool: how often it was started before")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed (or more, as `hpc.core.errors` says), 75 to be run again."""
    arguments = _arguments(argv)
    setup_logging(1)
    manifest = runner.Manifest.read(arguments.manifest)
    load = resolve(manifest.kind)
    if arguments.in_pool is not None:
        return runner.run_in_pool(
            manifest,
            load,
            arguments.index,
            job_id=arguments.job_id,
            restarts=arguments.restarts,
            parent=arguments.in_pool,
        )
    me = own.identity()
    if me is None:
        raise UsageError("this is not inside a Slurm job", "submit the job, or give --in-pool")
    if arguments.pack > 1:
        return runner.run_pack(manifest, arguments.manifest, arguments.offset, arguments.pack, me)
    index = arguments.index if arguments.index is not None else arguments.offset + me.task
    return runner.run_in_slurm(manifest, load, index, me)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        sys.exit(main())
    except HpcError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  fix: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
