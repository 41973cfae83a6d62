"""Where the shipped data is: the checkout when there is one, else inside the installed wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hpc.core.errors import HpcError


@cache
def _root() -> Path:
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs").is_dir():
        return checkout
    return package / "_data"


def data_dir(name: str) -> Path:
    """The folder of shipped data called ``name``: ``configs``, ``templates`` or ``models``."""
    path = _root() / name
    if not path.is_dir():
        raise HpcError(f"shipped folder {name}/ is missing at {path}", "reinstall apollo-hpc")
    return path
