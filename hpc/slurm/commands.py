"""Calling Slurm's programs, in an environment that is the same wherever the caller itself runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

KEPT = frozenset({"SLURM_CONF"})
_LEAKING = (
    "SLURM_",
    "SLURMD_",
    "SBATCH_",
    "SRUN_",
    "SALLOC_",
    "SQUEUE_",
    "SACCT_",
    "SCANCEL_",
    "SINFO_",
    "PMI",
    "SUBMITIT_",
)
_OF_AN_ALLOCATION = frozenset(
    {"CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"}
)


def clean_environment(environment: Mapping[str, str], hide: Iterable[str] = ()) -> dict[str, str]:
    """The environment without what an allocation or the user's Slurm defaults left in it.

    Inherited ``SLURM_*`` and ``SBATCH_*`` variables silently change options of sbatch and confuse
    the job; a GPU list inherited from an allocation would hide the job's own GPUs. ``SLURM_CONF``,
    which says where the cluster is, stays.

    Args:
        environment: such as ``os.environ``.
        hide: more variables to leave out, such as secrets that the job must not see.
    """
    dropped = set(hide)
    if "SLURM_JOB_ID" in environment:
        dropped |= _OF_AN_ALLOCATION
    return {
        name: value
        for name, value in environment.items()
        if name not in dropped and (name in KEPT or not name.startswith(_LEAKING))
    }


def call(
    *argv: str, timeout: float = 30.0, text: str | None = None, hide: Iterable[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's programs and return what it said; never raises.

    Args:
        argv: the program and its arguments.
        timeout: seconds; afterwards it is killed and the exit status is 124.
        text: its standard input.
        hide: variables to keep from it, as in `clean_environment`.

    A program that is not installed has the exit status 127; so has any when ``SLURM_CONF`` names
    a file that is not there, for which Slurm's programs themselves would wait a minute.
    """
    configuration = os.environ.get("SLURM_CONF")
    if configuration and not Path(configuration).exists():
        return subprocess.CompletedProcess(argv, 127, "", f"SLURM_CONF names {configuration}, which is not there")
    try:
        return subprocess.run(
            argv,
            env=clean_environment(os.environ, hide),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            start_new_session=True,  # Ctrl-C is for us: sbatch must not die between submitting and saying so
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 124, "", f"{argv[0]} did not answer within {timeout:g} s")
    except OSError as error:
        return subprocess.CompletedProcess(argv, 127, "", f"{argv[0]}: {error.strerror}")


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The program's own words about its failure, on one line."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    words = "; ".join(line.split(": error: ")[-1].split(": fatal: ")[-1] for line in lines)
    return words or f"{done.args[0]} ended with exit status {done.returncode}"
