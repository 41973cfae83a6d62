"""What is whole in a damaged HDF5 file, row by row.

libhdf5 may crash on damaged metadata, so the reading is done by a process of its own (``python -m
hpc.trajectories.salvage``, one path a line), which is started again when it dies.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hpc.core.errors import TrajectoryError
from hpc.trajectories.codec import decode, encode
from hpc.trajectories.records import Record
from hpc.trajectories.sealed import RECORD_TABLES, StoredFile

TIMEOUT_SECONDS = 30.0  # and a second more for each 10 MB
_LENGTH = struct.Struct("<Q")


class Salvaged(msgspec.Struct, kw_only=True):
    """What came out of a file.

    ``placed`` are the whole records with their places among all records, by place, encoded as in the
    log; ``problems`` says what is wrong with the rest, ``view`` that the file is a live view.
    """

    placed: list[tuple[int, bytes]] = []
    problems: list[str] = []
    view: bool = False

    def records(self) -> list[tuple[int, Record]]:
        """The whole records with their places."""
        return [(place, decode(payload)) for place, payload in self.placed]


def salvage(path: Path) -> Salvaged:
    """Read whatever rows of a sealed file or a live view match their checksums. Never raises."""
    with _lock:
        try:
            return _ask(path)
        except (OSError, EOFError, struct.error, msgspec.MsgspecError):
            code = _stop()
            return Salvaged(problems=[f"HDF5 cannot read it: the process that tried ended with {code}"])


def _ask(path: Path) -> Salvaged:
    worker = _start()
    assert worker.stdin is not None and worker.stdout is not None
    timer = threading.Timer(TIMEOUT_SECONDS + path.stat().st_size / 1e7, worker.kill)
    timer.start()
    try:
        worker.stdin.write(os.fsencode(path.absolute()).hex().encode() + b"\n")
        worker.stdin.flush()
        (length,) = _LENGTH.unpack(worker.stdout.read(_LENGTH.size))
        return msgspec.msgpack.decode(worker.stdout.read(length), type=Salvaged)
    finally:
        timer.cancel()


_lock = threading.Lock()
_workers: list[subprocess.Popen[bytes]] = []


def _start() -> subprocess.Popen[bytes]:
    if not _workers:
        package = Path(__file__).resolve().parents[2]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", __name__]
        _workers.append(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        )
    return _workers[0]


@atexit.register
def _stop() -> int | None:
    """End the process; returns its exit code (None: there was none)."""
    code = None
    while _workers:
        worker = _workers.pop()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            code = worker.wait(timeout=5)
        except subprocess.TimeoutExpired:
            worker.kill()
            code = worker.wait()
    return code


def read_here(path: Path) -> Salvaged:
    """`salvage` in this process, which HDF5 may crash."""
    found = Salvaged()
    try:
        file = StoredFile.open_damaged(path)
    except TrajectoryError as error:
        return Salvaged(problems=[_detail(error, path)])
    with file:
        found.view = not file.is_sealed()
        for piece in _pieces(file):
            if isinstance(piece, str):
                found.problems.append(piece)
            else:
                found.placed.append((piece[0], encode(piece[1])))
        if not found.view and not found.problems:
            try:
                file.verify()
            except TrajectoryError as error:
                found.problems.append(_detail(error, path))
    found.placed.sort()
    return found


def _pieces(file: StoredFile) -> Iterator[tuple[int, Record] | str]:
    for name in RECORD_TABLES:
        try:
            orders = file.table(name)["order"]
        except TrajectoryError as error:
            yield _detail(error, file.path)
            continue
        for row, order in enumerate(orders):
            try:
                yield int(order), file.record(name, row)
            except TrajectoryError as error:
                yield _detail(error, file.path)
    try:
        for row, at in enumerate(file.table("steps")):
            try:
                taken, observed = file.step(row)
            except TrajectoryError as error:
                yield _detail(error, file.path)
                continue
            yield int(at["order"]), taken
            if observed is not None:
                yield int(at["observed_order"]), observed
        for row in range(len(file.table("evaluations"))):
            file.evaluation_message(row)
    except TrajectoryError as error:
        yield _detail(error, file.path)


def _detail(error: TrajectoryError, path: Path) -> str:
    return error.message.removeprefix(f"{path} is damaged: ")


def main() -> None:
    """Answer each path on stdin with what is whole in it."""
    for line in sys.stdin.buffer:
        answer = msgspec.msgpack.encode(read_here(Path(os.fsdecode(bytes.fromhex(line.decode())))))
        sys.stdout.buffer.write(_LENGTH.pack(len(answer)) + answer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
