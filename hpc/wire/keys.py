"""The keys of a run: who may connect to its router, and as which episode.

Three CURVE pairs (router, agents, inbox) and one secret from which each episode's token follows.
They are made once at launch and live in ``keys/``, readable by the owner alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq

from hpc.core import files
from hpc.core.errors import HpcError
from hpc.rundir import RunDir, make_folder

T = TypeVar("T")


class KeyPair(msgspec.Struct, frozen=True):
    """A CURVE key pair in Z85, 40 characters each."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"


class _Token(msgspec.Struct, frozen=True):
    secret: str


def create_run_keys(run: RunDir) -> None:
    """Make the keys of a run unless it has them: all files or none (the folder is renamed into place).

    Raises:
        HpcError: they cannot be written.
    """
    try:
        _create(run)
    except OSError as error:
        raise HpcError(
            f"cannot make the keys {run.keys}: {error.strerror}", "free space or mend the permissions"
        ) from error


def load_router_keys(run: RunDir) -> KeyPair:
    """The router's own pair.

    Raises:
        HpcError: the file is missing, damaged, or readable by others (so for all ``load_*``).
    """
    return _load(run.keys / "router.json", KeyPair)


def load_agent_keys(run: RunDir) -> KeyPair:
    """The pair all agents of the run connect with."""
    return _load(run.keys / "agent.json", KeyPair)


def load_inbox_keys(run: RunDir) -> KeyPair:
    """The pair of `hpc inbox`."""
    return _load(run.keys / "inbox.json", KeyPair)


def load_token_secret(run: RunDir) -> str:
    """The secret from which `episode_token` makes the tokens."""
    return _load(run.keys / "token.json", _Token).secret


def episode_token(secret: str, episode: str) -> str:
    """What proves to the router that a connection speaks for ``episode``: HMAC-SHA256, hex."""
    return hmac.new(secret.encode(), episode.encode(), hashlib.sha256).hexdigest()


def _create(run: RunDir) -> None:
    if run.keys.is_dir():
        return
    make_folder(run.root)
    folder = Path(tempfile.mkdtemp(prefix=".keys.", dir=run.root))  # 0700
    try:
        for name in ("router", "agent", "inbox"):
            public, secret = zmq.curve_keypair()
            files.write_json(
                folder / f"{name}.json", {"public": public.decode(), "secret": secret.decode()}, mode=0o600
            )
        files.write_json(folder / "token.json", {"secret": secrets.token_hex(32)}, mode=0o600)
        try:
            folder.rename(run.keys)
        except OSError:
            if not run.keys.is_dir():  # otherwise another launch was faster, and its keys are as good
                raise
        files.fsync_dir(run.root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _load(path: Path, kind: type[T]) -> T:
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise HpcError(f"no such key: {path}", "launch the run again: a launch makes its keys") from error
    except OSError as error:
        raise HpcError(f"cannot read {path}: {error.strerror}", "keys are for the run's owner alone") from error
    if mode & 0o077:
        raise HpcError(f"{path} can be read by others (mode {mode & 0o777:o})", f"chmod 600 {path}")
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise HpcError(f"{path} is not a key file: {error}", "restore it, or launch a new run") from error
