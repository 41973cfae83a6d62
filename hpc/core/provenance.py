"""Which code made something: the state of the checkout it ran from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def git_state(file: Path) -> dict[str, Any] | None:
    """``commit`` (full hash) and ``dirty`` (tracked files differ from it) of the checkout that ``file``
    belongs to; None where it belongs to none (an installed package inside somebody's repository is
    not theirs) or there is no git."""
    try:
        _git(file.parent, "ls-files", "--error-unmatch", file.name)
        commit = _git(file.parent, "rev-parse", "HEAD")
        dirty = bool(_git(file.parent, "status", "--porcelain", "-uno"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()
