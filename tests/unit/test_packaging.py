"""The wheel is whole: it works outside the checkout, and no folder of the user's gets in its way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DATA = ("configs", "templates", "models")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs, and nothing else."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return site


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working directory with a jobs/ and a configs/ folder of the user's own."""
    for name in ("jobs", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong folder')\n")
    return tmp_path


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HPC_", "PYTHON"))}
    return subprocess.run(
        arguments, cwd=cwd, env=environment | {"PYTHONPATH": str(installed)}, capture_output=True, text=True
    )


def test_everything_tracked_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("hpc", "jobs"):
        for path in (ROOT / package).rglob("*.py"):
            assert str(path.relative_to(ROOT)) in names
    for folder in DATA:
        for path in (ROOT / folder).rglob("*.*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"hpc/_data/{path.relative_to(ROOT)}" in names
    assert "hpc/py.typed" in names


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hpc", "jobs"}


def test_the_console_command_works_outside_the_checkout(installed: Path, elsewhere: Path) -> None:
    done = run(installed, elsewhere, sys.executable, str(installed / "bin" / "hpc"), "config", "show", "episodes")
    assert done.returncode == 0, done.stderr
    assert "drift:" in done.stdout


def test_the_data_comes_from_the_wheel(installed: Path, elsewhere: Path) -> None:
    ask = "import hpc.core.locate as l; print(*(l.data_dir(n) for n in ('configs', 'templates', 'models')), sep='\\n')"
    done = run(installed, elsewhere, sys.executable, "-P", "-c", ask)
    assert done.stdout.split() == [str(installed / "hpc" / "_data" / folder) for folder in DATA], done.stderr


def test_no_jobs_folder_of_the_user_shadows_ours(installed: Path, elsewhere: Path) -> None:
    ask = "import jobs; print(jobs.__file__)"
    ours = run(installed, elsewhere, sys.executable, "-P", "-c", ask)
    assert ours.stdout.strip() == str(installed / "jobs" / "__init__.py"), ours.stderr
    shadowed = run(installed, elsewhere, sys.executable, "-c", ask)
    assert "the wrong folder" in shadowed.stderr  # what -P is for


def test_the_lock_pins_what_the_project_asks_for() -> None:
    lock = (ROOT / "requirements" / "dev.lock").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", lock, re.MULTILINE))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    chosen = [line for extra in ("data", "dev", "inspect", "router") for line in extras[extra]]
    asked = [Requirement(line) for line in [*project["dependencies"], *chosen]]
    for requirement in asked:
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    assert "://" not in lock
