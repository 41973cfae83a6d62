"""What an element does when it is started, as Slurm starts it: by its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc.rundir import RunDir
from hpc.slurm.elements import Outcome, read_outcome, write_outcome


@pytest.mark.parametrize("pack", [1, 2])
def test_slurms_own_requeues_count_too(tmp_path: Path, pack: int) -> None:
    run = RunDir.create(tmp_path / "run", manifest={}, config={}, config_hash="0")
    manifest = {"kind": "no_such_module:Work", "run": str(run.root), "payloads": [{}] * pack, "max_requeues": 2}
    run.elements("a").write_text(json.dumps(manifest))

    def started(restarts: int) -> tuple[int, list[Outcome | None]]:
        job = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
        times = {"SLURM_RESTART_COUNT": str(restarts), "SLURM_JOB_END_TIME": "4000000000"}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "jobs", str(run.elements("a")), "--pack", str(pack)],
            env={**os.environ, **job, **times},
            capture_output=True,
            timeout=60,
        )
        return done.returncode, [read_outcome(run, "a", index) for index in range(pack)]

    _, allowed = started(2)
    assert all(outcome is not None and "no_such_module" in outcome.error for outcome in allowed)  # it was tried

    for index in range(pack):  # its node was lost before it could say more
        write_outcome(run, "a", index, Outcome(state="running", job_id="7_0", attempt=3))
    code, outcomes = started(3)
    assert code == 1
    for outcome in outcomes:
        assert outcome is not None
        assert (outcome.state, outcome.attempt) == ("failed", 4)
        assert outcome.error.endswith("it has been started 3 times already (max_requeues is 2)")
