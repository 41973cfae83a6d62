"""Which code made something: the state of the checkout it ran from."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
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


def environment(git: dict[str, Any] | None, image: str | None) -> dict[str, str]:
    """What this process runs in, as texts: version of the package, ``commit`` (with ``+dirty``) if known,
    ``packages`` (SHA-256 of the sorted ``name==version`` of everything installed), Python and image."""
    found = {
        "version": importlib.metadata.version("apollo-hpc"),
        "commit": f"{git['commit']}{'+dirty' if git.get('dirty') else ''}" if git and "commit" in git else "",
        "packages": _packages(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "image": image or "",
    }
    return {name: value for name, value in found.items() if value}


def hash_of(environment: dict[str, str]) -> str:
    """SHA-256 of an environment as JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(environment, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@functools.cache
def _packages() -> str:
    names = sorted({f"{dist.name.lower()}=={dist.version}" for dist in importlib.metadata.distributions() if dist.name})
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()
