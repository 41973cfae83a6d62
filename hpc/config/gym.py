"""Configuration of the environment: which actions exist, where shells run, what is shown."""

from __future__ import annotations

from typing import Literal

from hpc.config.base import Config

ActionName = Literal[
    "create_session",
    "list_sessions",
    "run_command",
    "input_in_session",
    "get_session_output",
    "get_session_status",
    "check_session_idle",
    "close_session",
    "open_file",
    "edit_file",
    "create_file",
    "search_file",
    "list_files",
    "think",
    "sleep",
    "eval",
    "finish",
    "null",
]
"""Every action there is; `hpc.gym.actions` defines them."""

LOCAL_ADDRESSES = ("localhost", "127.0.0.1", "::1")


class ComputerConfig(Config, frozen=True):
    """A computer that the agent may name in an action."""

    computer_ip: str = "localhost"
    """Its address as the agent writes it. Shells run on the episode's own node, so it is one of
    localhost, 127.0.0.1 and ::1."""
    computer_port: int = 8123
    """Shown to the agent where a task's text names it; nothing listens there."""
    computer_type: Literal["localhost_cpu", "cpu", "gpu"] = "localhost_cpu"
    """What the task description calls it."""

    def __post_init__(self) -> None:
        if self.computer_ip not in LOCAL_ADDRESSES:
            raise ValueError(
                f"computer_ip is {self.computer_ip!r}, but sessions run on the episode's own node: "
                f"use one of {', '.join(LOCAL_ADDRESSES)}"
            )


class SnapshotsConfig(Config, frozen=True):
    """When the workspace is stored beside the trajectories, and how much of it."""

    every: int | None = None
    """After each so many steps; None: not between."""
    at_end: bool = True
    """When the episode is over."""
    max_bytes: int = 1 << 30
    """A larger workspace is not stored, which the trajectory says."""
    max_files: int = 50_000
    """Nor one of more files."""
    exclude: tuple[str, ...] = ()
    """Patterns, as in a shell, of paths in the workspace that are left out, such as `*.ckpt`; `*` also
    stands for slashes."""

    def __post_init__(self) -> None:
        for name in ("every", "max_bytes", "max_files"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, it must be 1 or more")


class GymConfig(Config, frozen=True):
    """The environment around a task."""

    actions: tuple[ActionName, ...] = (
        "create_session",
        "list_sessions",
        "run_command",
        "input_in_session",
        "get_session_output",
        "get_session_status",
        "check_session_idle",
        "close_session",
        "open_file",
        "edit_file",
        "create_file",
        "search_file",
        "list_files",
        "think",
        "sleep",
        "eval",
        "finish",
    )
    """Actions offered to the agent, in this order."""
    computer_pool: tuple[ComputerConfig, ...] = (ComputerConfig(),)
    """Computers that the agent may name; the first is the default."""
    shell: str = "/bin/bash"
    """The shell of a session; it must be a bash."""
    pass_environment: tuple[str, ...] = (
        "PATH",
        "LANG",
        "LC_ALL",
        "TZ",
        "TMPDIR",
        "USER",
        "LD_LIBRARY_PATH",
        "CUDA_HOME",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
    )
    """Variables of the job that a session inherits. Everything else stays behind, tokens first."""
    max_sessions: int = 16
    """Sessions open at the same time."""
    wait_limit_s: float = 10.0
    """A command that the agent waits for is killed after so many seconds."""
    buffer_lines: int = 10_000
    """Lines of output kept for each session; older ones are dropped."""
    shown_lines: int = 50
    """Lines of output shown after a command."""
    shown_characters: int = 30_000
    """Characters shown of an output or a file; of an output, the newest."""
    max_file_bytes: int = 10_000_000
    """Larger files cannot be opened, edited or created by an action."""
    snapshots: SnapshotsConfig = SnapshotsConfig()
    """The workspace as it was, by content."""
    sleep_cap_s: float = 1800.0
    """Longest time that one sleep really takes, whatever was asked for; short in tests."""

    def __post_init__(self) -> None:
        if not self.actions:
            raise ValueError("actions is empty, name at least one")
        if len(set(self.actions)) != len(self.actions):
            raise ValueError("actions names one action twice")
        if not self.computer_pool:
            raise ValueError("computer_pool is empty, name at least one computer")
        for name in ("max_sessions", "buffer_lines", "shown_lines", "shown_characters", "max_file_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        for name in ("wait_limit_s", "sleep_cap_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 0 or more")
