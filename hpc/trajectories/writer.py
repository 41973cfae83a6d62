"""Writing a trajectory: durable step by step, sealed at the end.

While the episode runs the framed log is the truth: `TrajectoryWriter.append` returns when the
records are on disk. A live HDF5 view mirrors it for readers. `TrajectoryWriter.seal` rewrites
everything into one compressed HDF5 file; the log goes only when that file is whole and durable, so
a crash anywhere leaves either the log or the sealed file complete.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from hpc.core import files
from hpc.core.errors import HpcError, TrajectoryIncomplete
from hpc.core.framed import MAX_FRAME, FramedLog
from hpc.rundir import RunDir
from hpc.trajectories import codec, sealed
from hpc.trajectories.live import LiveView, views_in
from hpc.trajectories.log import read_log, require_whole
from hpc.trajectories.order import RecordOrder
from hpc.trajectories.published import PublishedLog
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import ActionTaken, AttemptStarted, Observed, Record


class NodeLocal(NamedTuple):
    """Where a node keeps the log and the live view of an episode (`hpc.trajectories.published`)."""

    folder: Path
    publish_seconds: float = 30.0


class TrajectoryWriter:
    """The only writer of one episode's trajectory. Make one with `open`.

    ``records`` is what the trajectory holds: after `open` what earlier attempts wrote, then also
    what was appended, as it will be read back.
    """

    def __init__(
        self,
        run: RunDir,
        index: int,
        log: FramedLog | PublishedLog | None,
        records: list[Record],
        local: NodeLocal | None = None,
    ) -> None:
        self.run = run
        self._local = local
        self.index = index
        self.records = records
        self._log = log
        self._live: LiveView | None = None
        self._order = RecordOrder()
        for record in records:
            self._order.take(record)

    @classmethod
    def open(cls, run: RunDir, index: int, *, local: NodeLocal | None = None) -> TrajectoryWriter:
        """Take the episode's writer lock and read what is there.

        With ``local`` the log and the live view are in that folder of the node, and the log is published.

        A torn frame at the end of the log (never acknowledged) is cut off. An episode that is
        already sealed opens too: it takes no more records, and `seal` cleans up behind a crash.

        Raises:
            HpcError: another process writes this episode, or the disk refuses.
            TrajectoryIncomplete: the log is damaged in the middle; nothing is touched.
        """
        path, finished = run.log(index), run.trajectory(index)
        try:
            if finished.exists() and not path.exists():
                return cls(run, index, None, _sealed_records(finished))
            if path.exists():
                require_whole(path, read_log(path))
            log = _open_log(path, local)
        except OSError as error:
            raise HpcError(f"cannot open {path}: {error.strerror}", "free space or mend the permissions") from error
        try:
            if finished.exists() and not log.frames:  # sealed by another process a moment ago
                path.unlink(missing_ok=True)
                log.close()
                return cls(run, index, None, _sealed_records(finished))
            records = [codec.decode(frame) for frame in log.frames if frame]
        except BaseException:
            log.close()
            raise
        log.frames.clear()
        return cls(run, index, log, records, local)

    def append(self, *records: Record) -> None:
        """Make records durable, in order, all in one write.

        Raises:
            ValueError: they are out of order (header first, steps numbered from 1, each observation
                after its action, nothing after the outcome), or the writer is sealed or closed.
            HpcError: the disk is full, or a record is too large; the trajectory is as before.
        """
        if self._log is None:
            raise ValueError(f"the trajectory of episode {self.index} is sealed or closed")
        problem = self._order.problem_of(records)
        if problem:
            raise ValueError(f"episode {self.index}: {problem}")
        payloads = [codec.encode(record) for record in records]
        stored = [codec.decode(payload) for payload in payloads]  # acknowledge only what can be read back
        largest = max(map(len, payloads), default=0)
        if largest > MAX_FRAME:
            raise HpcError(f"a record of {largest} bytes is too large for {self._log.path}", "cut its texts")
        if isinstance(self._log, PublishedLog):
            self._log.append(*payloads, publish=not all(isinstance(r, ActionTaken | Observed) for r in records))
        else:
            self._log.append(*payloads)
        for record in stored:
            self._order.take(record)
            self.records.append(record)
            if isinstance(record, AttemptStarted):
                self._start_view(record.epoch)
            elif self._live is not None:
                self._live.put(record)

    def seal(self) -> Path:
        """Rewrite the finished trajectory into its final file and drop log and live views.

        May be repeated after a crash at any moment. Until it is done readers see the log, from the
        rename on the sealed file.

        Raises:
            ValueError: there is no outcome yet, or the writer is closed.
            HpcError: the disk refuses; nothing is lost, call again.
            TrajectoryIncomplete: the log was damaged on disk.
        """
        target = self.run.trajectory(self.index)
        if self._log is None and not target.exists():
            raise ValueError(f"the trajectory of episode {self.index} is closed")
        if not self._order.has_outcome:
            raise ValueError(f"the trajectory of episode {self.index} has no outcome yet")
        self._stop_view()
        try:
            if self._log is not None:
                self._write_sealed(self._log.path, target)
            for view in self._views():
                view.unlink(missing_ok=True)
            if self._log is not None:
                self.run.log(self.index).unlink(missing_ok=True)
                self._log.path.unlink(missing_ok=True)
                self._log.close()
                self._log = None
                files.fsync_dir(self.run.episode(self.index))
        except OSError as error:
            raise HpcError(f"cannot seal {target}: {error.strerror}", "free space or mend the permissions") from error
        return target

    def close(self) -> None:
        """Release the lock; the live view stays for readers until the episode goes on or is sealed."""
        self._stop_view()
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write_sealed(self, log: Path, target: Path) -> None:
        contents = read_log(log)  # from disk: what is sealed is what was durable
        require_whole(log, contents)
        if len(contents.records) != len(self.records):
            raise TrajectoryIncomplete(
                f"{log} holds {len(contents.records)} of {len(self.records)} records", "restore it from a copy"
            )
        for leftover in target.parent.glob(f".{target.name}.*.tmp"):  # of a seal that was killed
            leftover.unlink(missing_ok=True)
        files.write_bytes(target, sealed.build(contents.records))

    def _start_view(self, epoch: int) -> None:
        self._stop_view()
        path = self.run.live_view(self.index, epoch)
        if self._local is not None:
            path = self._local.folder / path.name
        earlier = [view for view in self._views() if view != path]
        self._live = LiveView(path, self.records, replaces=earlier)

    def _views(self) -> list[Path]:
        folders = [self.run.episode(self.index), *([self._local.folder] if self._local is not None else [])]
        return [view for folder in folders for view in views_in(folder)]

    def _stop_view(self) -> None:
        if self._live is not None:
            self._live.close()
            self._live = None


def _open_log(path: Path, local: NodeLocal | None) -> FramedLog | PublishedLog:
    if local is None:
        return FramedLog(path)
    return PublishedLog(path, local.folder / path.name, publish_seconds=local.publish_seconds)


def _sealed_records(path: Path) -> list[Record]:
    with Trajectory.open(path) as trajectory:
        return list(trajectory.records())
