"""``python child.py PARENT_PID PROGRAM ARGUMENT…`` becomes PROGRAM, which is told to stop when its
parent dies, however that happens. Run as a file, without this package on the path.

The wish survives ``exec``. It is SIGTERM and not SIGKILL because a killed vLLM API server leaves its
engine and workers behind, holding memory; a terminated one takes them with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Set the wish, then replace this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent died before the server could start")
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
