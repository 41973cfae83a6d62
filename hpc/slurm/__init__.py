"""Jobs on Slurm, or as processes of this machine: submit, follow, cancel, run again.

The only package that knows Submitit and Slurm's programs.
"""

from hpc.slurm.allocation import REQUEUE, Allocation
from hpc.slurm.elements import LIVE, ElementState, is_settled, unsure
from hpc.slurm.facts import ClusterFacts, choose_executor, cluster_facts
from hpc.slurm.jobspec import Dependency, JobSpec, SubmittedJob
from hpc.slurm.logs import log_path, tail_log
from hpc.slurm.record import array_spec, jobs_of
from hpc.slurm.states import states, states_of
from hpc.slurm.submit import cancel, is_recorded, render, resubmit, submit

__all__ = [
    "LIVE",
    "REQUEUE",
    "Allocation",
    "ClusterFacts",
    "Dependency",
    "ElementState",
    "JobSpec",
    "SubmittedJob",
    "array_spec",
    "cancel",
    "choose_executor",
    "cluster_facts",
    "is_recorded",
    "is_settled",
    "jobs_of",
    "log_path",
    "render",
    "resubmit",
    "states",
    "states_of",
    "submit",
    "tail_log",
    "unsure",
]
