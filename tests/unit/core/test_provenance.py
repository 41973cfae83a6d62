"""Which code made something."""

from __future__ import annotations

import subprocess
from pathlib import Path

from hpc.core.provenance import git_state


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_checkout_has_a_commit_and_may_be_dirty(tmp_path: Path) -> None:
    tracked = tmp_path / "code.py"
    tracked.write_text("1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")

    assert git_state(tracked) == {"commit": commit, "dirty": False}
    (tmp_path / "untracked").write_text("")
    assert git_state(tracked) == {"commit": commit, "dirty": False}
    tracked.write_text("2\n")
    assert git_state(tracked) == {"commit": commit, "dirty": True}


def test_an_installed_package_inside_somebodys_repository_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "mine.py").write_text("")
    git(tmp_path, "add", "mine.py")
    git(tmp_path, "commit", "--quiet", "-m", "mine")
    package = tmp_path / ".venv" / "package.py"
    package.parent.mkdir()
    package.write_text("")

    assert git_state(package) is None


def test_where_there_is_no_checkout_there_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("")
    assert git_state(tmp_path / "code.py") is None
    assert git_state(tmp_path / "absent" / "code.py") is None
