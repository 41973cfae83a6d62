"""Parent of one shell: sees to it that nothing of a session outlives its owner.

Run as a script by `hpc.gym.sessions` with descriptors as arguments. It starts the shell on the
terminal and waits: when the shell has ended, or when the owner closes its end of the ``life`` pipe
(a kill -9 closes it too), it kills every descendant. As a child subreaper it also inherits, and so
finds, processes that made themselves daemons. Standard library only, to start in milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

REPORTS_FD = 98
"""Where the shell reports exit codes, away from the low numbers that scripts use."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def _processes() -> Iterator[tuple[int, int, int]]:
    """(process, parent, session) of all living processes, from one look at /proc."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # the command name in brackets may hold spaces and brackets itself
            state, parent, _, session, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            if state != "Z":
                yield int(entry.name), int(parent), int(session)


def kill_session(session: int) -> None:
    """Kill what is left of a terminal session whose guard was itself killed. For the owner; daemons
    that left the session are beyond its reach."""
    for _ in range(10):  # one may fork while the others are killed
        left = [pid for pid, _, of in _processes() if of == session]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, parent, _ in _processes():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    level = [root]
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        found += level
    return found


def _reap() -> dict[int, int]:
    """Exit codes (128 + signal for the killed) of the children that have ended."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    return ended


def _kill_all() -> dict[int, int]:
    """Kill until nothing is left: a process may fork while it is being looked for."""
    ended = _reap()
    pause = 0.002
    while descendants := _descendants(os.getpid()):
        for pid in descendants:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 1.0)
        ended |= _reap()
    return ended | _reap()


def _become_shell(shell: str, terminal: int, commands: int, reports: int, notes: int) -> NoReturn:
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.login_tty(terminal)
        os.dup2(commands, 0)
        os.dup2(reports, REPORTS_FD)
        os.execv(shell, [shell, "--noprofile", "--norc", "--noediting", "-i"])
    except OSError as error:
        os.write(notes, f"failed {error}\n".encode())
    os._exit(127)


def main(arguments: list[str]) -> None:
    """Start the shell named first. The numbers that follow are descriptors: the shell's terminal,
    commands and reports, the guard's own notes to the owner, and the owner's life."""
    shell = arguments[0]
    terminal, commands, reports, notes, life = map(int, arguments[1:])
    for descriptor in (commands, reports, notes, life):
        os.set_inheritable(descriptor, False)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the owner decides; its death closes the pipe
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pid = os.fork()
    if pid == 0:
        _become_shell(shell, terminal, commands, reports, notes)
    for descriptor in (terminal, commands, reports):
        os.close(descriptor)
    os.write(notes, f"shell {pid}\n".encode())
    ended: dict[int, int] = {}
    while pid not in ended:
        ready, _, _ = select.select([life, wake_read], [], [])
        if life in ready:
            ended |= _kill_all()
            break
        os.read(wake_read, 4096)
        ended |= _reap()
    ended |= _kill_all()
    with contextlib.suppress(BrokenPipeError):
        os.write(notes, f"exit {ended.get(pid, 137)}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
