"""Named terminal sessions: they remember what was printed and outlive their shells."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hpc.core.errors import SessionError
from hpc.gym.output import OutputBuffer
from hpc.gym.shell import MAX_COMMAND, Shell, quoted

INTERRUPTED = 128 + signal.SIGINT


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
        self._killed = False
        self._done = asyncio.Event()
        self._done.set()
        self._seen = self.moment

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
        self._killed = False
        self._done.clear()
        try:
            shell.run(command)
        except SessionError:
            self._done.set()
            raise

    async def wait(self, seconds: float) -> bool:
        """Wait for the end of the command; whether it came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for of Python 3.11 may swallow a cancellation
                await self._done.wait()
        return not self.running

    async def kill(self) -> None:
        """Kill the running command. If the shell itself hangs it is killed too, and the next command
        gets a new one."""
        if self._shell is None or not self.running:
            return
        self._killed = True
        if not await self._shell.stop_command():
            await self._shell.close()

    def type(self, text: str) -> None:
        """Type a line into the running command.

        Raises:
            SessionError: none runs.
        """
        if self._shell is None or not self.running:
            raise SessionError(f"session {self.session_id} has no running command that could read input")
        self._shell.type(f"{text}\n")

    @property
    def moment(self) -> tuple[int, bool]:
        """Changes whenever something happens: new output, a command begins or ends."""
        return self.output.produced, self.running

    def look(self) -> bool:
        """Whether anything has happened since the last look."""
        before, self._seen = self._seen, self.moment
        return before != self._seen

    async def close(self) -> None:
        """Kill everything that was started in this session."""
        if self._shell is not None:
            await self._shell.close()

    def _take_output(self, data: bytes) -> None:
        self.output.feed(data, time.time())

    def _take_exit(self, exit_code: int) -> None:
        self.output.end_line(time.time())
        if self.running:
            # met by the signal between two commands, a shell tells the status of the first one
            self.exit_code = exit_code or INTERRUPTED if self._killed else exit_code
            self._done.set()


class Terminals:
    """The sessions of one episode, by name.

    Args:
        computers: addresses that the agent may name; the first is the default. All of them are the
            episode's own node.
        limit: sessions open at the same time.
        program, workspace, environment, buffer_lines: as for `Session`.
    """

    def __init__(
        self,
        computers: Sequence[str],
        limit: int,
        *,
        program: str,
        workspace: Path,
        environment: Mapping[str, str],
        buffer_lines: int,
    ) -> None:
        self._computers = computers
        self._limit = limit
        self._program = program
        self._workspace = workspace
        self._environment = environment
        self._buffer_lines = buffer_lines
        self._sessions: dict[str, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def computer(self, computer_ip: str | None) -> str:
        """The address itself, or the default.

        Raises:
            SessionError: no such computer.
        """
        if computer_ip is None:
            return self._computers[0]
        if computer_ip not in self._computers:
            raise SessionError(f"unknown computer {computer_ip[:100]!r}; known: {', '.join(self._computers)}")
        return computer_ip

    def get(self, session_id: str, computer_ip: str | None = None) -> Session:
        """An open session.

        Raises:
            SessionError: none of that name is open, or no such computer.
        """
        self.computer(computer_ip)
        if session_id not in self._sessions:
            known = ", ".join(self._sessions) or "none"
            raise SessionError(f"no session {session_id[:100]}; open: {known}")
        return self._sessions[session_id]

    async def create(self, session_id: str, computer_ip: str | None = None) -> Session:
        """Open a session.

        Raises:
            SessionError: the name is taken or unfit, too many are open, or no such computer.
            GymError: the shell does not start.
        """
        computer_ip = self.computer(computer_ip)
        if session_id in self._sessions:
            raise SessionError(f"session {session_id} exists already")
        if not session_id.isprintable():
            raise SessionError("a session's name must be printable text")
        if len(self._sessions) >= self._limit:
            raise SessionError(f"{len(self._sessions)} sessions are open, that is the limit; close one")
        session = Session(
            session_id,
            computer_ip,
            program=self._program,
            workspace=self._workspace,
            environment=self._environment,
            buffer_lines=self._buffer_lines,
        )
        await session.open()
        self._sessions[session_id] = session
        return session

    async def ensure(self, session_id: str, computer_ip: str | None = None) -> Session:
        """The session of that name, opened if need be; raises as `create` does."""
        self.computer(computer_ip)
        return self._sessions.get(session_id) or await self.create(session_id, computer_ip)

    async def close(self, session_id: str, computer_ip: str | None = None) -> None:
        """Close one session; raises as `get` does."""
        session = self.get(session_id, computer_ip)
        del self._sessions[session_id]
        await session.close()

    async def close_all(self) -> None:
        """Close every session."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        await asyncio.gather(*(session.close() for session in sessions))
