"""A writer in a process of its own, to be killed: appends steps and says which are acknowledged.

Usage: writer_process.py RUN_ROOT INDEX STEPS SIZE
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from hpc.rundir import RunDir
from hpc.trajectories.records import ActionTaken, AttemptStarted, Observed, OutcomeReached
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import header, outcome, step_records


def main(root: str, index: int, steps: int, size: int) -> None:
    run = RunDir(Path(root))
    with TrajectoryWriter.open(run, index) as writer:
        if not writer.records:
            writer.append(header(index, run.name))
        if isinstance(writer.records[-1], OutcomeReached):  # killed between its outcome and the sealed file
            writer.seal()
            return
        epoch = sum(isinstance(record, AttemptStarted) for record in writer.records) + 1
        writer.append(AttemptStarted(epoch=epoch, at=time.time(), host="here"))
        done = sum(isinstance(record, ActionTaken) for record in writer.records)
        half = done > sum(isinstance(record, Observed) for record in writer.records)
        print("start", len(writer.records), flush=True)
        rng = random.Random(done)
        for number in range(done if half else done + 1, steps + 1):
            for record in step_records(number, [], rng, size)[1 if half else 0 :]:
                writer.append(record)
                print("ack", len(writer.records), flush=True)
            half = False
        writer.append(outcome(steps))
        print("ack", len(writer.records), flush=True)
        writer.seal()
        print("sealed", len(writer.records), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
