"""``python -P -m jobs.rank RUN …``: one rank of a training, started by `jobs.train`.

The parent writes the reason to stop into standard input; its end means that the parent has ended.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import msgspec

from hpc.config.train import TrainRunConfig
from hpc.core import files
from hpc.core.errors import HpcError
from hpc.core.logs import setup_logging
from hpc.rundir import RunDir
from hpc.slurm import REQUEUE
from jobs.train import failure_path

log = logging.getLogger(__name__)


class ParentLine:
    """What the parent says, heard by a thread."""

    def __init__(self) -> None:
        self.reason: str | None = None
        threading.Thread(target=self._listen, name="parent-line", daemon=True).start()

    def _listen(self) -> None:
        """From the descriptor itself: a lock of ``sys.stdin``, held here, would be held for ever in the
        processes that write checkpoints, which are forks."""
        while said := os.read(0, 1000):
            self.reason = said.decode().split()[0]
            log.warning("stopping (%s)", self.reason)
        os._exit(1)  # nobody would end or restart this process any more


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 trained, 75 saved and to be run again, else failed."""
    parser = argparse.ArgumentParser(prog="python -P -m jobs.rank", description=__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--local-rank", type=int, required=True)
    parser.add_argument("--start", required=True, help="names this start of the job")
    parser.add_argument("--host", default="127.0.0.1", help="how others reach this node")
    arguments = parser.parse_args(argv)
    setup_logging(1)
    logging.getLogger("megatron").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="megatron")  # that TransformerEngine is not installed
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # Slurm signals every process of a step; the parent judges
    line = ParentLine()
    run = RunDir(arguments.run)
    try:
        config = msgspec.convert(run.read_config(), TrainRunConfig)
        from hpc.training.platform import prepare

        prepare()  # before megatron is imported
        from hpc.training.session import train
        from hpc.training.world import Place

        place = Place(
            rank=arguments.rank,
            world=arguments.world,
            local_rank=arguments.local_rank,
            meeting=run.meeting(arguments.start),
            host=arguments.host,
        )
        outcome = train(run, config, place, stopping=lambda: line.reason is not None)
    except HpcError as error:
        _leave_word(run, arguments.start, arguments.rank, error.message, error.hint)
        log.error("%s%s", error.message, f"\n  fix: {error.hint}" if error.hint else "")
        return error.exit_code
    except Exception as error:
        log.exception("rank %d failed", arguments.rank)
        said = f"rank {arguments.rank}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        _leave_word(run, arguments.start, arguments.rank, said, "the log says more")
        return 1
    return REQUEUE if outcome == "stopped" else 0


def _leave_word(run: RunDir, start: str, rank: int, message: str, hint: str) -> None:
    try:
        words = {"message": message, "hint": hint, "at": time.time()}
        files.write_json(failure_path(run, start) / f"{rank}.json", words)
    except HpcError as error:  # the disk is full: the log has it
        log.warning("%s", error)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not waiting for what threads of torch may be waiting for
