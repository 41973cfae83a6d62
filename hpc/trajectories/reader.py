"""Reading a trajectory, live, crashed or sealed, in one way."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from hpc.core.errors import TrajectoryIncomplete, TrajectoryLayoutError, UsageError
from hpc.rundir import RunDir
from hpc.trajectories.deltas import replay_prompt
from hpc.trajectories.layout import TABLES, USAGE
from hpc.trajectories.log import check_hint, parse_log, read_log, require_records
from hpc.trajectories.order import RecordOrder
from hpc.trajectories.records import (
    ActionTaken,
    AlertRaised,
    AttemptStarted,
    ContextRewritten,
    EpisodeHeader,
    GuidanceApplied,
    Observed,
    OutcomeReached,
    Record,
    SnapshotTaken,
)
from hpc.trajectories.sealed import StoredFile
from hpc.trajectories.sources import LoggedSource, SealedSource, Source

SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Step(NamedTuple):
    """One step. ``observed`` is None when the episode was cut off while the action ran."""

    action: ActionTaken
    observed: Observed | None


class StepTokens(NamedTuple):
    """What the engine saw and sampled in one step, in its own token ids.

    ``prompt`` is the whole prompt (P ids), ``answer`` what was sampled (A ids), ``logprobs`` the natural
    logarithm of the probability of each id of the answer (A floats, or none where the engine gave none).
    """

    prompt: list[int]
    answer: list[int]
    logprobs: list[float]


class Steps(Sequence[Step]):
    """The steps in order, read when they are asked for. ``steps[0]`` is step 1."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return self._source.step_count

    @overload
    def __getitem__(self, index: int) -> Step: ...

    @overload
    def __getitem__(self, index: slice) -> list[Step]: ...

    def __getitem__(self, index: int | slice) -> Step | list[Step]:
        rows = range(len(self))[index]
        if isinstance(rows, range):
            return [Step(*self._source.step(row)) for row in rows]
        return Step(*self._source.step(rows))


class Trajectory:
    """One episode as stored. Make one with `open`; it holds a sealed file open until `close`.

    Raises (wherever stored data is read):
        TrajectoryIncomplete: that part is damaged.
    """

    def __init__(self, path: Path, source: Source, *, sealed: bool) -> None:
        self.path = path
        self.sealed = sealed
        self.steps = Steps(source)
        self._source = source
        header = source.of_kind("header")[0]
        if not isinstance(header, EpisodeHeader):
            raise TrajectoryIncomplete(f"{path} is damaged: no header", check_hint(path))
        self.header = header

    @functools.cached_property
    def attempts(self) -> list[AttemptStarted]:
        """One for each process that began or resumed the episode."""
        return [record for record in self._source.of_kind("attempts") if isinstance(record, AttemptStarted)]

    @functools.cached_property
    def alerts(self) -> list[AlertRaised]:
        """All alerts in order."""
        return [record for record in self._source.of_kind("alerts") if isinstance(record, AlertRaised)]

    @functools.cached_property
    def guidance(self) -> list[GuidanceApplied]:
        """All guidance in the order in which it was applied."""
        return [record for record in self._source.of_kind("guidance") if isinstance(record, GuidanceApplied)]

    @functools.cached_property
    def contexts(self) -> list[ContextRewritten]:
        """All summaries that took the place of steps in the model's context."""
        return [record for record in self._source.of_kind("contexts") if isinstance(record, ContextRewritten)]

    @functools.cached_property
    def snapshots(self) -> list[SnapshotTaken]:
        """All snapshots of the workspace, also those that were refused."""
        return [record for record in self._source.of_kind("snapshots") if isinstance(record, SnapshotTaken)]

    @functools.cached_property
    def outcome(self) -> OutcomeReached | None:
        """How the episode ended; None if it has not."""
        return next((record for record in self._source.of_kind("outcome") if isinstance(record, OutcomeReached)), None)

    @classmethod
    def open(cls, source: Path | str | tuple[RunDir, int]) -> Trajectory:
        """Open a trajectory: its tables are read, its texts and tokens only when they are asked for.

        Args:
            source: a sealed file, a framed log, or an episode in any state, as a path ``RUN/INDEX``
                (``runs/first/3``) or as its run and index.

        Raises:
            TrajectoryLayoutError: not a trajectory, or one of a newer format.
            TrajectoryIncomplete: absent, unreadable or damaged.
        """
        if not isinstance(source, tuple):
            path = Path(source)
            run_of = RunDir(path.parent)
            if path.is_file() or not path.name.isdecimal() or not run_of.config.is_file():
                return cls._open_path(path)
            source = (run_of, int(path.name))
        run, index = source
        sealed, log = run.trajectory(index), run.log(index)
        if not sealed.exists() and log.exists():
            try:
                return cls._open_path(log)
            except TrajectoryIncomplete:
                if log.exists():  # otherwise it was sealed meanwhile
                    raise
        if not sealed.exists():
            raise TrajectoryIncomplete(
                f"episode {index} of {run.name} has no trajectory yet", f"see `hpc episodes status {run.name}`"
            )
        return cls._open_path(sealed)

    @classmethod
    def _open_path(cls, path: Path) -> Trajectory:
        if is_hdf5(path):
            file = StoredFile.open(path)
            try:
                if not file.is_sealed():
                    raise TrajectoryLayoutError(f"{path} is a live view", "name its episode as RUN/INDEX")
                file.verify()
                return cls(path, SealedSource(file), sealed=True)
            except BaseException:
                file.close()
                raise
        contents = read_log(path)
        require_records(path, contents)
        order = RecordOrder()
        for record in contents.records:
            problem = order.problem(record)
            if problem:
                raise TrajectoryIncomplete(f"{path} is damaged: {problem}", check_hint(path))
            order.take(record)
        return cls(path, LoggedSource(contents.records), sealed=False)

    def close(self) -> None:
        """Close the file, if one is open."""
        self._source.close()

    def __enter__(self) -> Trajectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def records(self) -> Iterator[Record]:
        """All records in the order in which they were written."""
        return self._source.records()

    def step(self, number: int) -> Step:
        """The step called ``number``, from 1; only its own texts and tokens are read.

        Raises:
            UsageError: there is no such step.
        """
        return self.steps[self._row(number)]

    def prompt_token_ids(self, step: int) -> list[int]:
        """The whole prompt of a step as the engine tokenised it.

        Args:
            step: number of the step, from 1.

        Raises:
            UsageError: there is no such step.
        """
        return replay_prompt(self._source.token_parts(row) for row in range(self._row(step), -1, -1))

    def tokens(self, step: int) -> StepTokens:
        """Prompt, answer and log-probabilities of the step called ``step``, from 1.

        Raises:
            UsageError: there is no such step.
        """
        action = self.step(step).action
        return StepTokens(self.prompt_token_ids(step), action.token_ids, action.logprobs)

    def table(self, name: str) -> NDArray[Any]:
        """A table of docs/trajectory-format.md as a structured array, without reading any text.

        Args:
            name: header, attempts, steps, evaluations, alerts, guidance, contexts, snapshots or outcome. Of one
                that is not sealed the offsets point nowhere.

        Raises:
            UsageError: there is no such table.
        """
        if name not in TABLES:
            raise UsageError(f"a trajectory has no table {name}", f"one of {', '.join(TABLES)}")
        return self._source.table(name)

    def _row(self, number: int) -> int:
        if not 1 <= number <= len(self.steps):
            raise UsageError(f"{self.path} has no step {number}", f"it has steps 1 to {len(self.steps)}")
        return number - 1

    def summary(self) -> dict[str, Any]:
        """The trajectory without its steps, in plain values for JSON.

        ``attempts`` and ``steps`` are counts; ``status`` is "running" without an outcome, whether or
        not a process is at work.
        """
        header, outcome = self.header, self.outcome
        return {
            "episode_id": header.episode_id,
            "run": header.run,
            "index": header.index,
            "task": header.task_id,
            "task_family": header.task_family,
            "split": header.split,
            "seed": header.seed,
            "config_hash": header.config_hash,
            "environment_hash": header.environment_hash,
            "branched_from": msgspec.to_builtins(header.branched_from),
            "created_at": header.created_at,
            "sealed": self.sealed,
            "status": outcome.status if outcome else "running",
            "attempts": len(self.attempts),
            "steps": len(self.steps),
            "outcome": _plain(outcome) if outcome else None,
            "best_score": outcome.best_score if outcome else self._best_step_score(),
            "started": [_plain(attempt) for attempt in self.attempts],
            "alerts": [_plain(alert) for alert in self.alerts],
            "guidance": [_plain(guidance) for guidance in self.guidance],
            "contexts": [_plain(context) for context in self.contexts],
            "snapshots": [_plain(snapshot) for snapshot in self.snapshots],
            "usage": self.usage(),
        }

    def usage(self) -> dict[str, float | None]:
        """What the steps cost in all (`hpc.trajectories.records.Usage`), summaries included; None for what
        no step tells."""
        total: dict[str, float | None] = {}
        for name in USAGE:
            values = np.concatenate([self._source.table("steps")[name], self._source.table("contexts")[name]])
            known = values[~np.isnan(values)]
            total[name] = float(known.sum()) if len(known) else None
        return total

    def _best_step_score(self) -> float | None:
        scores = self._source.table("evaluations")["score"]
        return float(scores.max()) if len(scores) else None


def is_hdf5(path: Path) -> bool:
    """Whether the file begins as HDF5 does.

    Raises:
        TrajectoryIncomplete: it is absent or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except FileNotFoundError as error:
        raise TrajectoryIncomplete(f"no trajectory at {path}", "name a sealed .h5 file, a log or RUN/INDEX") from error
    except OSError as error:
        raise TrajectoryIncomplete(f"cannot read {path}: {error.strerror}", "mend its permissions or disk") from error


def stored_episodes(run: RunDir) -> list[int]:
    """Indices of the episodes of a run that have a trajectory, sealed or not."""
    found = {int(path.stem) for path in run.trajectory(0).parent.glob("*.h5") if path.stem.isdecimal()}
    for folder in run.episode(0).parent.glob("*"):
        if folder.name.isdecimal() and int(folder.name) not in found and run.log(int(folder.name)).exists():
            found.add(int(folder.name))
    return sorted(found)


def path_of(run: RunDir, index: int) -> Path:
    """The file that holds an episode's trajectory now: the sealed one, else the log."""
    sealed = run.trajectory(index)
    return sealed if sealed.exists() else run.log(index)


def follow(run: RunDir, index: int, *, poll_seconds: float = 0.5) -> Iterator[Record]:
    """Yield an episode's records, each once, as they become durable, until its outcome.

    Reads the log, which works on every file system; goes over to the sealed file when that takes
    the log's place. Waits for an episode that has not started.
    """
    count = offset = 0
    doubted = False  # a file system may show a write in progress out of order: look twice
    while True:
        fresh: list[Record] = []
        sealed, log = run.trajectory(index), run.log(index)
        if sealed.exists():
            with Trajectory.open(sealed) as trajectory:
                fresh = list(trajectory.records())[count:]
        else:
            try:
                with log.open("rb") as file:
                    file.seek(offset)
                    contents = parse_log(file.read())
            except FileNotFoundError:
                contents = parse_log(b"")
            if contents.damage and doubted and not contents.records:
                raise TrajectoryIncomplete(f"{log} is damaged: {contents.damage}", check_hint(log))
            doubted = bool(contents.damage)
            fresh, offset = contents.records, offset + contents.size
        for record in fresh:
            yield record
            if isinstance(record, OutcomeReached):
                return
        count += len(fresh)
        time.sleep(poll_seconds)


def _plain(record: Record) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(record)
    del value["type"]
    return value
