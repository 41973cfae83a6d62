"""What Slurm runs: one small frozen callable per kind, no logic of its own.

A job is started as ``python -P -m jobs ELEMENTS_FILE [--offset K]``: the file says which kind it is
and what each array index runs; the index comes from the scheduler (or ``--index``).
"""

from __future__ import annotations

KINDS: dict[str, str] = {
    "episode": "jobs.episode:EpisodeJob",
    "export": "jobs.export:ExportJob",
    "finalize": "jobs.finalize:FinalizeJob",
    "judge": "jobs.judge:JudgeJob",
    "router": "jobs.router:RouterJob",
    "serve": "jobs.serve:ServeJob",
    "train": "jobs.train:TrainJob",
}
"""Kind -> the callable struct that runs one element. Its fields are the element's payload; it is
called with the run directory and the allocation and returns an exit status:
0 done, 1 failed, `hpc.slurm.REQUEUE` (75) to be run again."""
