"""One bash on a pty, driven without typing into it.

Three channels lead to a shell. Commands go in over a pipe that is the shell's own standard input;
a command itself reads and writes the terminal. The shell reports exit codes over a second pipe that
commands do not have, so no output can be mistaken for the end of a command. The terminal carries
output only: after a report the owner asks the shell to print a random mark, made after the command
ended, and takes everything in front of it as the command's output.

Sessions keep one another and the workspace apart by convention, not by force: they run as the same
user as the episode. Use the cluster's containers where agents are not trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from pathlib import Path

from hpc.core.errors import GymError, SessionError
from hpc.gym import guard

MAX_COMMAND = 30_000
"""Bytes of one command, quoted; it must fit the pipe without blocking."""

START_S = 30.0
"""A shell that is not ready after so long counts as broken."""

_DRAIN_S = 2.0
_GONE_S = 10.0
_KILL_ROUNDS = 10
_KILL_PAUSE_S = 0.05
_WINDOW = (50, 200)  # rows, columns


def quoted(text: str) -> str:
    """The text as one bash word on one line."""
    special = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r"}
    return "$'" + "".join(special.get(character, character) for character in text) + "'"


class Shell:
    """One bash and its guard. A session outlives its shells: one that exits is replaced.

    Args:
        on_output: called with the bytes that commands print.
        on_done: called with the exit code when the command is over and its output complete.
    """

    def __init__(self, on_output: Callable[[bytes], None], on_done: Callable[[int], None]) -> None:
        self._on_output = on_output
        self._on_done = on_done
        self._loop = asyncio.get_running_loop()
        self.gone = asyncio.Event()
        """Set when shell, guard and all of their processes have ended."""
        self.alive = False
        self._pid = 0
        self._failure = ""
        self._guarded = False  # the guard has said that nothing is left
        self._token = secrets.token_hex(16)  # of the report that is awaited
        self._mark = b""  # set while waiting for it to be printed
        self._held = b""  # the end of what was read: it may be the beginning of the mark
        self._over = asyncio.Event()
        self._exit_code = 137
        self._silent = False
        self._deadline: asyncio.TimerHandle | None = None

    async def start(self, program: str, cwd: Path, environment: Mapping[str, str]) -> None:
        """Start and wait until the shell takes commands.

        Raises:
            GymError: it does not.
        """
        self._terminal, slave = os.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        termios.tcsetwinsize(slave, _WINDOW)
        commands_read, self._commands = os.pipe()
        self._reports, reports_write = os.pipe()
        self._notes, notes_write = os.pipe()
        life_read, self._life = os.pipe()
        passed = (slave, commands_read, reports_write, notes_write, life_read)
        self._own = (self._terminal, self._commands, self._reports, self._notes)
        for descriptor in self._own:
            os.set_blocking(descriptor, False)
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, program, *map(str, passed)],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=cwd,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            for descriptor in (*self._own, self._life):
                os.close(descriptor)
            raise GymError(f"cannot start a session in {cwd}: {error.strerror}") from error
        finally:
            for descriptor in passed:
                os.close(descriptor)
        self.alive = True
        self._loop.add_reader(self._terminal, self._read_terminal)
        self._loop.add_reader(self._reports, self._read_reports)
        self._loop.add_reader(self._notes, self._read_notes)
        self._silent = True
        self._send("PS1= PS2=; set +H; unset HISTFILE")
        self._ask_for_mark()
        try:
            async with asyncio.timeout(START_S):  # wait_for of Python 3.11 may swallow a cancellation
                await self._over.wait()
        except TimeoutError:
            self._failure = f"not ready after {START_S:g} s"
        except asyncio.CancelledError:
            await self.close()
            raise
        self._silent = False
        if self._failure or not self.alive:
            await self.close()
            raise GymError(
                f"cannot start the shell {program}: {self._failure or 'it ended at once'}",
                "gym.shell must be the path of a bash",
            )

    def run(self, command: str) -> None:
        """Start a command; `on_done` is called at its end.

        Raises:
            SessionError: the shell has just died.
        """
        self._over.clear()
        self._token = secrets.token_hex(16)  # a shell's own loop could find and write to the pipe
        # two lines: an interrupt throws away the rest of its line, and must not take the report along
        self._send(f"builtin eval {quoted(command)} 0</dev/tty {guard.REPORTS_FD}>&-", self._report_line)

    def type(self, text: str) -> None:
        """Type into the command that runs."""
        with contextlib.suppress(OSError):  # a program that reads nothing, so the line is full; or it just died
            os.write(self._terminal, text.encode(errors="replace"))

    async def stop_command(self) -> bool:
        """Kill the processes of the running command, and nothing else; whether that ended it.

        When it did not, the shell must be closed: it prints nothing from here on.
        """
        self._silent = True  # what the shell says about the kill is not the command's output
        for _ in range(_KILL_ROUNDS):
            self._strike()
            if await self._ends_in(_KILL_PAUSE_S) or not self.alive:
                break
            # an interrupt also takes along a line that the shell was reading just then: say it again
            with contextlib.suppress(SessionError):
                self._send(self._mark_line if self._mark else self._report_line)
            if await self._ends_in(_KILL_PAUSE_S) or not self.alive:
                break
        self._silent = not self._over.is_set()
        return self._over.is_set()

    async def _ends_in(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return self._over.is_set()

    def _strike(self) -> None:
        with contextlib.suppress(OSError):  # it may end by itself just now
            foreground = os.tcgetpgrp(self._terminal)
            if foreground > 0 and foreground != self._pid:
                os.killpg(foreground, signal.SIGKILL)
            if self._pid > 0 and not self._mark:  # breaks loops of the shell itself
                os.kill(self._pid, signal.SIGINT)

    async def close(self) -> None:
        """Kill everything below the guard and wait until it is gone."""
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        try:
            async with asyncio.timeout(_GONE_S):
                await self.gone.wait()
        except TimeoutError:  # a process that even SIGKILL does not end hangs in the kernel
            self._guard.kill()
            self._finish()

    # ---- the three channels

    def _send(self, *lines: str) -> None:
        try:
            os.write(self._commands, "".join(f"{line}\n" for line in lines).encode())
        except (BrokenPipeError, BlockingIOError) as error:
            raise SessionError("the shell of this session does not take commands", "open another session") from error

    @property
    def _report_line(self) -> str:
        return f"builtin printf '{self._token} %d\\n' \"$?\" >&{guard.REPORTS_FD}"

    @property
    def _mark_line(self) -> str:
        return f"builtin printf '\\033]{self._mark[2:-1].decode()}\\007' >/dev/tty"

    def _ask_for_mark(self) -> None:
        self._mark = f"\x1b]{secrets.token_hex(16)}\x07".encode()
        with contextlib.suppress(SessionError):
            self._send(self._mark_line)
        self._deadline = self._loop.call_later(_DRAIN_S, self._complete)

    def _read_terminal(self) -> None:
        try:
            data = os.read(self._terminal, 65536)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody holds the terminal any more
            data = b""
        if data:
            self._take(data)
        else:
            self._loop.remove_reader(self._terminal)

    def _take(self, data: bytes) -> None:
        if not self._mark:
            self._print(data)
            return
        data = self._held + data
        before, found, after = data.partition(self._mark)
        if found:
            self._held = b""
            self._print(before)
            self._complete()
            self._print(after)
        else:
            keep = max(len(data) - len(self._mark) + 1, 0)
            self._held = data[keep:]
            self._print(data[:keep])

    def _print(self, data: bytes) -> None:
        if data and not self._silent:
            self._on_output(data)

    def _read_reports(self) -> None:
        data = os.read(self._reports, 4096)
        if not data:
            self._loop.remove_reader(self._reports)
            return
        match = re.search(rf"{self._token} (\d+)\n".encode(), data)
        if match and not self._mark and not self._over.is_set():
            self._exit_code = int(match.group(1))
            self._ask_for_mark()

    def _read_notes(self) -> None:
        data = os.read(self._notes, 4096)
        if not data:
            self._finish()
        for line in data.decode(errors="replace").splitlines():
            kind, _, value = line.partition(" ")
            if kind == "shell":
                self._pid = int(value)
            elif kind == "exit":
                self._exit_code = int(value)
                self._guarded = True
            else:
                self._failure = value

    def _complete(self) -> None:
        """The command is over and its output taken in."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._mark = b""
        self._print(self._held)
        self._held = b""
        if not self._over.is_set():
            self._over.set()
            self._on_done(self._exit_code)

    def _finish(self) -> None:
        """The guard has ended, and everything below it."""
        if self.gone.is_set():
            return
        self.alive = False
        if not self._guarded and self._pid > 0:
            self._exit_code = 137
            guard.kill_session(self._pid)
        with contextlib.suppress(OSError):
            while data := os.read(self._terminal, 65536):
                self._take(data)
        self._complete()
        for descriptor in self._own:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self._guard.wait()
        self.gone.set()
