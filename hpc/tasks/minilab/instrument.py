"""The hidden instrument: a Unix socket in the episode's process, outside the agent's workspace.

One connection is one use: a JSON line ``{"recipe": text}`` is answered with a JSON line
``{"lines": [...], "exit_code": n}``. Uses queue up: there is one instrument.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from hpc.core.errors import GymError
from hpc.tasks.minilab.lab import Printout

log = logging.getLogger(__name__)

MAX_REQUEST = 64 * 1024
"""Longest request line, bytes."""
_SOCKET = "instrument"
_LONGEST_ADDRESS = 100
"""Unix socket addresses end at 108 bytes on Linux, 104 elsewhere."""


class Instrument:
    """Serves ``use`` on a socket in a private folder (mode 0700) of its own.

    The folder also holds ``bin/python``, the interpreter that runs the agent's experiment: the one
    below any virtual environment, so that it cannot import this library.

    Args:
        use: recipe text -> printout; called for one request at a time, and only it decides whether
            a run is spent. What it changes must be durable when it returns.
        seconds: how long the instrument takes for a run, seconds; a failing request answers at once.
    """

    def __init__(self, use: Callable[[str], Printout], seconds: float) -> None:
        self._use = use
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None
        self._uses: set[asyncio.Task[None]] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What a session needs to reach the instrument.

        Raises:
            GymError: it is not running.
        """
        if self._folder is None:
            raise GymError("the instrument is not running")
        path = os.environ.get("PATH", os.defpath)
        return {"MINILAB_INSTRUMENT": str(self._folder / _SOCKET), "PATH": f"{self._folder / 'bin'}:{path}"}

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            GymError: no folder for the socket can be made.
        """
        try:
            folder = Path(tempfile.mkdtemp(prefix="minilab-"))
            if len(str(folder / _SOCKET)) > _LONGEST_ADDRESS:
                folder.rmdir()
                folder = Path(tempfile.mkdtemp(prefix="minilab-", dir="/tmp"))
            self._folder = folder
            (folder / "bin").mkdir()
            interpreter = getattr(sys, "_base_executable", None) or sys.executable
            for name in ("python", "python3"):
                (folder / "bin" / name).symlink_to(interpreter)
            self._server = await asyncio.start_unix_server(self._connected, folder / _SOCKET, limit=MAX_REQUEST)
        except OSError as error:
            await self.stop()
            raise GymError(f"the instrument cannot listen: {error}", "set TMPDIR to a writable folder") from error

    async def stop(self) -> None:
        """Stop listening, cut open connections and remove the folder. Runs under way stay spent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._uses):
            task.cancel()
        await asyncio.gather(*self._uses, return_exceptions=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._uses.add(task)
        task.add_done_callback(self._uses.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            recipe = await _read_request(reader)
            async with self._turn:
                printout = await self._run(recipe)
            writer.write(json.dumps({"lines": printout.lines, "exit_code": printout.exit_code}).encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            log.debug("an experiment hung up")
        finally:
            writer.close()

    async def _run(self, recipe: str | None) -> Printout:
        if recipe is None:
            return Printout(("error: the instrument cannot read that request",), 2)
        printout = self._use(recipe)
        if printout.exit_code == 0:
            await asyncio.sleep(self._seconds)
        return printout


async def _read_request(reader: asyncio.StreamReader) -> str | None:
    """The recipe of a request; None when it is rubbish."""
    try:
        recipe = json.loads(await reader.readuntil(b"\n"))["recipe"]
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, KeyError, TypeError):
        return None
    return recipe if isinstance(recipe, str) else None
