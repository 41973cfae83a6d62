"""Named terminal sessions: they remember what was printed and outlive their shells."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from hpc.core.errors import SessionError
from hpc.gym.output import OutputBuffer
from hpc.gym.shell import MAX_COMMAND, Shell, quoted


class Session:
    """A named terminal with the memory of what it printed.

    Args:
        program: the bash to run.
        workspace: where it starts.
        environment: all the variables it gets.
        buffer_lines: how many lines of output are kept.
    """

    def __init__(
        self,
        session_id: str,
        computer_ip: str,
        *,
        program: str,
        workspace: Path,
        environment: Mapping[str, str],
        buffer_lines: int,
    ) -> None:
        self.session_id = session_id
        self.computer_ip = computer_ip
        self.exit_code: int | None = None
        """Of the latest command that has ended; 128 + signal when it was killed."""
        self.output = OutputBuffer(buffer_lines)
        self._program = program
        self._workspace = workspace
        self._environment = environment
        self._shell: Shell | None = None
        self._done = asyncio.Event()
        self._done.set()
        self._seen: tuple[int, bool] = (0, False)

    @property
    def running(self) -> bool:
        """Whether a command runs in the foreground."""
        return not self._done.is_set()

    async def open(self) -> Shell:
        """The shell of this session; a new one if there is none alive.

        Raises:
            GymError: it cannot be started.
        """
        if self._shell is None or not self._shell.alive:
            self._shell = Shell(self._take_output, self._take_exit)
            await self._shell.start(self._program, self._workspace, self._environment)
        return self._shell

    async def run(self, command: str) -> None:
        """Start a command; a shell that has exited is replaced by a new one first.

        Raises:
            SessionError: a command runs already, or this one is too long or holds a NUL.
        """
        if self.running:
            raise SessionError(f"session {self.session_id} is busy: a command runs in it")
        if "\0" in command:
            raise SessionError("a command cannot hold a NUL character")
        try:
            size = len(quoted(command).encode())
        except UnicodeEncodeError as error:
            raise SessionError("the command is not valid Unicode") from error
        if size > MAX_COMMAND:
            raise SessionError(f"the command has {size} bytes, at most {MAX_COMMAND}: put it into a file")
        shell = await self.open()
        self.output.mark()
        self._done.clear()
        try:
            shell.run(command)
        except SessionError:
            self._done.set()
            raise

    async def wait(self, seconds: float) -> bool:
        """Wait for the end of the command; whether it came in time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), seconds)
        return not self.running

    async def kill(self) -> None:
        """Kill the running command. If the shell itself hangs it is killed too, and the next command
        gets a new one."""
        if self._shell is not None and self.running and not await self._shell.stop_command():
            await self._shell.close()

    def type(self, text: str) -> None:
        """Type a line into the running command.

        Raises:
            SessionError: none runs.
        """
        if self._shell is None or not self.running:
            raise SessionError(f"session {self.session_id} has no running command that could read input")
        self._shell.type(f"{text}\n")

    def look(self) -> bool:
        """Whether anything has happened since the last look: new output, or the command ended."""
        now = (self.output.produced, self.running)
        changed = now != self._seen
        self._seen = now
        return changed

    async def close(self) -> None:
        """Kill everything that was started in this session."""
        if self._shell is not None:
            await self._shell.close()

    def _take_output(self, data: bytes) -> None:
        self.output.feed(data, time.time())

    def _take_exit(self, exit_code: int) -> None:
        self.output.end_line(time.time())
        if self.running:
            self.exit_code = exit_code
            self._done.set()
