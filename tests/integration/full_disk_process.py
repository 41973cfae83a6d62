"""Writes until the disk refuses, then goes on as a job would. Prints what it saw as JSON.

Usage: full_disk_process.py RUN_ROOT LIMIT_BYTES (0: no limit of this process, the disk itself is small)
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from hpc.core.errors import HpcError
from hpc.rundir import RunDir
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories.samples import episode


def main(root: str, limit: int) -> None:
    run = RunDir(Path(root))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    saw: dict[str, object] = {"acknowledged": 0}
    records = episode(400, size=4_000)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited))
    writer = TrajectoryWriter.open(run, 0)
    try:
        for record in records:
            writer.append(record)
            saw["acknowledged"] = len(writer.records)
    except HpcError as error:
        saw["error"] = str(error)
    with Trajectory.open((run, 0)) as trajectory:
        saw["readable"] = len(list(trajectory.records()))
    writer.close()
    for ballast in Path(root).parent.glob("ballast*"):
        ballast.unlink()
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    with TrajectoryWriter.open(run, 0) as again:  # there is space again: the episode goes on
        again.append(*records[len(again.records) :])
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited))
            try:
                again.seal()
            except HpcError as error:
                saw["seal_error"] = str(error)
            with Trajectory.open((run, 0)) as trajectory:
                saw["readable_unsealed"] = [trajectory.sealed, len(list(trajectory.records()))]
            resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
        again.seal()
    with Trajectory.open((run, 0)) as trajectory:
        saw["whole"] = trajectory.sealed and list(trajectory.records()) == records
    saw["files"] = sorted(path.name for path in run.trajectory(0).parent.iterdir())
    print(json.dumps(saw))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
