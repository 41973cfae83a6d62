"""``jobs.json``: everything that was submitted for a run, and under which ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Literal

import msgspec

from hpc.config.cluster import Resources
from hpc.core import files
from hpc.core.errors import HpcError
from hpc.core.locks import exclusive
from hpc.rundir import RunDir, make_folder

RECORD_VERSION = 1


def array_spec(tasks: Iterable[int]) -> str:
    """Slurm's way to write a list of array indices: ``0-3,7``."""
    ordered = sorted(set(tasks))
    # within a run of consecutive numbers, number and position differ by the same
    runs = (list(members) for _, members in groupby(enumerate(ordered), key=lambda pair: pair[1] - pair[0]))
    ends = ((run[0][1], run[-1][1]) for run in runs)
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


def parse_spec(spec: str) -> list[int]:
    """The inverse of `array_spec`; a throttle (``%4``) is ignored."""
    tasks: list[int] = []
    for part in filter(None, spec.split("%")[0].split(",")):
        first, _, last = part.partition("-")
        tasks.extend(range(int(first), int(last or first) + 1))
    return tasks


class Chunk(msgspec.Struct, frozen=True):
    """One array job: array index t runs the elements from ``offset + t * pack`` on."""

    id: str
    offset: int
    tasks: str
    pack: int = 1

    def elements(self, count: int) -> Iterator[tuple[int, int]]:
        """(element, array index) of every element of this chunk; ``count``: elements of the whole job."""
        for task in parse_spec(self.tasks):
            first = self.offset + task * self.pack
            for element in range(first, min(first + self.pack, count)):
                yield element, task


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One act of submitting: all elements of a job at first, some of them when they are run again."""

    backend: Literal["slurm", "local"]
    at: float
    chunks: list[Chunk]
    after: list[dict[str, str]] = []
    host: str = ""
    pid: int = 0
    """Local backend: the process that sees the elements through, with the time of its start."""
    process_started: float = 0.0
    cancelled: bool = False


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job of a run, newest submission last."""

    kind: str
    elements: int
    resources: Resources | None = None
    throttle: int | None = None
    hide_env: list[str] = []
    submissions: list[Submission] = []

    def latest(self) -> dict[int, tuple[Submission, Chunk, int]]:
        """Element -> the submission, chunk and array index that ran it last."""
        found: dict[int, tuple[Submission, Chunk, int]] = {}
        for submission in self.submissions:
            for chunk in submission.chunks:
                for element, task in chunk.elements(self.elements):
                    found[element] = (submission, chunk, task)
        return found


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    version: int = RECORD_VERSION
    jobs: dict[str, JobRecord] = {}


def read_record(run: RunDir) -> Record:
    """What was submitted for ``run``; empty before the first submission.

    Raises:
        HpcError: jobs.json is damaged.
    """
    try:
        return msgspec.json.decode(run.jobs.read_bytes(), type=Record)
    except FileNotFoundError:
        return Record()
    except OSError as error:
        raise HpcError(f"cannot read {run.jobs}: {error.strerror}", "mend the permissions") from error
    except msgspec.DecodeError as error:
        raise HpcError(f"{run.jobs} is damaged: {error}", "restore it from a copy") from error


def jobs_of(run: RunDir) -> list[str]:
    """Names of the jobs that were submitted for ``run``, in that order."""
    return list(read_record(run).jobs)


@contextmanager
def locked(run: RunDir) -> Iterator[None]:
    """Hold the run's submissions: one process at a time changes jobs.json.

    Raises:
        HpcError: the lock file cannot be made or locked.
    """
    make_folder(run.root)
    with exclusive(run.jobs.with_suffix(".lock")):
        yield


def write_record(run: RunDir, record: Record) -> None:
    """Replace jobs.json; the caller holds `locked`.

    Not forced to the disk: a machine that crashes within seconds of a submission may lose it, as
    the controller may lose the job itself; waiting for the disk would double what submitting costs.
    """
    text = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    files.write_bytes(run.jobs, text, durable=False)


def with_submission(record: Record, name: str, job: JobRecord, submission: Submission) -> Record:
    """The record with ``submission`` as the newest of the job ``name``."""
    before = record.jobs[name].submissions if name in record.jobs else []
    changed = msgspec.structs.replace(job, submissions=[*before, submission])
    return msgspec.structs.replace(record, jobs={**record.jobs, name: changed})
