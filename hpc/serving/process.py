"""The server as a child process: a port that nobody can take, a process group that never outlives us."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from hpc.core.errors import MissingExtra, ServingError

log = logging.getLogger(__name__)

TAIL_BYTES = 64 * 1024
LONGEST_REASON = 300
RECENT_LINES = 300  # an error further up belongs to a request long answered
_CHILD = Path(__file__).with_name("child.py")
_ERROR = re.compile(r"(?:^|\s)((?:[\w.]*\.)?\w*(?:Error|Exception|Exit)): (.+)")
_DETAIL = re.compile(r"^\s+(?:Value error|Assertion failed), (.*)")  # pydantic puts the message below
_PREFIX = re.compile(r"^\([\w:]+(?: pid=\d+)?\) ?")
_ECHOES = (
    "Engine core initialization failed",
    "Engine process failed",
    "EngineDeadError",
    "WorkerProc initialization failed",
)
"""Errors that only repeat that another process failed; its own error, further up, says why."""


class HeldPort:
    """A free TCP port, ours from the moment it is found until `release`.

    The socket is bound but never listens. That keeps the kernel from giving the port to anyone
    else, while a server that sets SO_REUSEADDR, as vLLM and every Python HTTP server do, can still
    bind it by number. Asking for a free port and closing the socket again would leave a gap in
    which another server on a shared node takes it.

    Raises:
        ServingError: the host is not an address of this machine.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, 0))
        except OSError as error:
            self._socket.close()
            raise ServingError(
                f"cannot listen on {host}: {error.strerror or error}", "set server.host to an address of this node"
            ) from error
        self.port = int(self._socket.getsockname()[1])

    def release(self) -> None:
        self._socket.close()


def node_address() -> str:
    """The address under which other nodes reach this one: that of its host name, unless it is a
    loopback address, else that of the default route, else 127.0.0.1."""
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    except OSError:
        found = []
    found += [_route_address()]
    return next((address for address in found if address and not address.startswith("127.")), "127.0.0.1")


def _route_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: never sent anywhere, only routed
            return str(probe.getsockname()[0])
        except OSError:
            return ""


class ServerProcess:
    """A started server; its output is appended to ``log_path``.

    Raises:
        MissingExtra: the program cannot be started.
    """

    def __init__(self, argv: Sequence[str], *, env: dict[str, str], cwd: Path, log_path: Path) -> None:
        program = shutil.which(argv[0])
        if program is None:
            raise MissingExtra(f"{argv[0]} is no executable", "run scripts/setup-serve, or set runtime.vllm")
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log_path = log_path
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        wrapped = [sys.executable, "-IS", str(_CHILD), str(os.getpid()), program, *argv[1:]]
        inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        with log_path.open("ab") as output:
            self._child = subprocess.Popen(
                wrapped,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**inherited, **env},
                process_group=0,
            )
        self.pid = self._child.pid
        self.started_at = time.monotonic()

    def exit_code(self) -> int | None:
        """The exit status once it has ended; negative for a signal."""
        return self._child.poll()

    def why(self) -> str:
        """The reason of a failure on one line, read from this start's part of the log."""
        code = self._child.poll()
        ending = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        how = "does not answer" if code is None else ending
        reason = failure_reason(self.tail())
        return f"the server {how}: {reason}" if reason else f"the server {how}"

    def tail(self) -> str:
        """The end of what this start has logged."""
        with self.log_path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - TAIL_BYTES))
            return file.read().decode(errors="replace")

    def stop(self, seconds: float) -> bool:
        """Ask it to end, wait up to ``seconds``, then leave nothing of it. Whether it ended by itself."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(seconds)
            except subprocess.TimeoutExpired:
                log.warning("server %d did not stop within %g s, killing it", self.pid, seconds)
                self.sweep()
                return False
        self.sweep()
        return True

    def sweep(self) -> None:
        """Kill whatever is left of the group. Python's resource tracker goes last: it removes the
        shared memory that killed workers leave in /dev/shm."""
        trackers = []
        for process in _group(self.pid):
            if _is_tracker(process):
                trackers.append(process)
            else:
                _kill(process)
        self._child.wait()
        _, alive = psutil.wait_procs(trackers, timeout=5)
        for process in alive:
            _kill(process)


def _group(leader: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        return


def failure_reason(text: str) -> str:
    """The most telling line of a server's log: the last error that is not the echo of another.

    Returns the empty string when the log holds no error.
    """
    lines = [_PREFIX.sub("", line).rstrip() for line in text.splitlines()]
    errors = [(match, position) for position, line in enumerate(lines) if (match := _ERROR.search(line))]
    recent = [found for found in errors if found[1] >= len(lines) - RECENT_LINES]
    causes = [found for found in recent if not any(echo in found[0].group() for echo in _ECHOES)]
    if not errors:
        usage = [line.split(": error: ", 1)[1] for line in lines if ": error: " in line]
        return usage[-1][:LONGEST_REASON] if usage else ""
    match, position = (causes or errors)[-1]
    reason = f"{match.group(1).rsplit('.', 1)[-1]}: {match.group(2)}"
    details = [detail for line in lines[position + 1 : position + 3] if (detail := _DETAIL.match(line))]
    if details:
        reason = details[0].group(1).split(" [type=", 1)[0]
    return reason[:LONGEST_REASON]


def is_port_clash(text: str) -> bool:
    """Whether a server says that its port was taken."""
    return "address already in use" in text.lower()


def share_model_facts(scratch: Path) -> None:
    """Let the server find what vLLM learned of model classes before: it starts an interpreter of its own to look at
    one (20 s of two cores), and keeps the answer under a hash of the class's source. Nothing else is shared."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apollo-hpc" / "vllm-modelinfos"
    with contextlib.suppress(OSError, RuntimeError):  # without a home it looks again each time
        cache.mkdir(parents=True, exist_ok=True)
        (scratch / "vllm").mkdir(exist_ok=True)
        (scratch / "vllm" / "modelinfos").symlink_to(cache)
