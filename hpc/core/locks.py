"""Locks between processes, on files that outlive them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpc.core.errors import HpcError


@contextmanager
def exclusive(path: Path, *, busy: HpcError | None = None) -> Iterator[None]:
    """Hold the lock file ``path`` for the length of the block; waits for whoever holds it now, or with ``busy``
    raises that.

    Raises:
        HpcError: the file cannot be opened or locked.
    """
    try:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HpcError(f"cannot lock {path}: {error.strerror}", "mend the permissions of the run directory") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy is not None else 0))
        except BlockingIOError:
            assert busy is not None  # else it would have waited
            raise busy from None
        except OSError as error:
            raise HpcError(f"cannot lock {path}: {error.strerror}", "see the locking line of `hpc doctor`") from error
        yield
    finally:
        os.close(fd)
