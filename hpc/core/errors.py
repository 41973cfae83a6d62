"""Every error a user can meet.

The tree (exit code in brackets)::

    HpcError [1]
    ├── ConfigError [2]                   unknown key, wrong type, missing value
    ├── UsageError [2]                    a command that cannot be taken as given
    ├── MissingExtra [2]                  an optional package or program is not installed
    ├── PartialFailure [3]                some of the work failed, the rest is kept
    ├── SubmissionError [4]               the cluster refused a job
    ├── JobError [4]
    │   ├── JobFailed [4]
    │   ├── JobTimedOut [4]
    │   └── JobPreempted [4]
    ├── ServingError [1]
    │   ├── EndpointNotFound [1]
    │   └── ServerNotReady [1]
    ├── WireError [1]
    │   ├── WireDecodeError [1]
    │   ├── WireVersionError [1]
    │   ├── RouterUnreachable [1]
    │   └── RouterSuperseded [1]          a newer router serves the run
    ├── AnnotatorError [1]
    ├── GymError [1]
    │   ├── ActionError [1]
    │   ├── SessionError [1]
    │   └── EvaluatorError [1]
    ├── TrajectoryError [1]
    │   ├── TrajectoryLayoutError [1]
    │   ├── TrajectoryIncomplete [1]
    │   └── SnapshotError [1]             a workspace that cannot be stored or laid out
    ├── DatasetError [1]
    └── CheckpointError [1]
        ├── CheckpointNotFound [1]
        └── ExportFailed [1]

A message says what failed and names the value; the hint says how to mend it. All of them survive
pickling, because Submitit carries exceptions across processes.
"""

from __future__ import annotations

from typing import ClassVar


class HpcError(Exception):
    """Base of all errors meant for a user.

    Args:
        message: what failed, with the offending value, on one line.
        hint: how to mend it, on one line; may be empty.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(HpcError):
    """A configuration value is unknown, missing or of the wrong type."""

    exit_code = 2


class UsageError(HpcError):
    """A command cannot be taken as given."""

    exit_code = 2


class MissingExtra(HpcError):
    """An optional package or an external program is not installed."""

    exit_code = 2


class PartialFailure(HpcError):
    """Some of the work failed; what succeeded is kept."""

    exit_code = 3


class SubmissionError(HpcError):
    """The cluster refused or could not take a job."""

    exit_code = 4


class JobError(HpcError):
    """A job ended otherwise than by finishing its work."""

    exit_code = 4


class JobFailed(JobError):
    """A job ended with a non-zero exit status."""


class JobTimedOut(JobError):
    """A job reached its walltime."""


class JobPreempted(JobError):
    """A job was preempted and will not be requeued."""


class ServingError(HpcError):
    """A model server or its endpoint failed."""


class EndpointNotFound(ServingError):
    """No live endpoint is published under that name."""


class ServerNotReady(ServingError):
    """A server did not become ready in time."""


class WireError(HpcError):
    """The guidance protocol failed."""


class WireDecodeError(WireError):
    """Bytes that are not a message of the protocol."""


class WireVersionError(WireError):
    """A peer speaks a newer major version of the protocol."""


class RouterUnreachable(WireError):
    """No router answers for this run."""


class RouterSuperseded(WireError):
    """A newer router serves the run; this one must say nothing more."""


class AnnotatorError(HpcError):
    """The annotators' side (Slack, console) refused or failed."""


class GymError(HpcError):
    """The environment failed."""


class ActionError(GymError):
    """An action that the environment cannot take."""


class SessionError(GymError):
    """A terminal session is missing, busy or dead."""


class EvaluatorError(GymError):
    """The hidden evaluator failed."""


class TrajectoryError(HpcError):
    """A trajectory file cannot be used."""


class TrajectoryLayoutError(TrajectoryError):
    """A file that is not a trajectory, or of an unknown format version."""


class TrajectoryIncomplete(TrajectoryError):
    """A trajectory that is damaged or not finished."""


class SnapshotError(TrajectoryError):
    """A workspace is too large to be stored, or a stored one is absent or damaged."""


class DatasetError(HpcError):
    """A training set cannot be built or does not prove correct."""


class CheckpointError(HpcError):
    """A checkpoint cannot be used."""


class CheckpointNotFound(CheckpointError):
    """No such checkpoint, or it is not whole."""


class ExportFailed(CheckpointError):
    """A checkpoint could not be converted to HF weights."""
