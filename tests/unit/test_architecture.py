"""What the whole tree promises: layers, errors, sizes, no traces of one machine."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hpc.core import errors
from hpc.core.errors import HpcError

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for folder in ("hpc", "jobs") for path in (ROOT / folder).rglob("*.py"))
LONGEST_MODULE = 500
ERRORS = sorted(
    (kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, HpcError)),
    key=lambda kind: kind.__name__,
)


def tracked_files() -> list[Path]:
    """Text files that git knows; every file where there is no git (a source archive)."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in str(path.relative_to(ROOT))]
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


# ---- layers


def test_the_import_contracts_hold() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(command), "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_is_in_the_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    layered = {name.strip() for line in layers for name in line.split("|")}
    packages = {f"hpc.{path.parent.name}" for path in (ROOT / "hpc").glob("*/__init__.py")}
    modules = {f"hpc.{path.stem}" for path in (ROOT / "hpc").glob("*.py") if path.stem != "__init__"}
    assert packages | modules <= layered


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_too_long_and_each_says_what_it_is(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= LONGEST_MODULE
    assert ast.get_docstring(ast.parse(source)), "no module docstring"


def test_only_programs_exit() -> None:
    """The command line, and modules that are run as a program of their own."""

    def is_program(path: Path, source: str) -> bool:
        return (
            path.name == "__main__.py" or ROOT / "hpc" / "cli" in path.parents or 'if __name__ == "__main__"' in source
        )

    exits = re.compile(r"\bsys\.exit\(|raise SystemExit")
    sources = {path: path.read_text(encoding="utf-8") for path in MODULES}
    assert [path for path, text in sources.items() if exits.search(text) and not is_program(path, text)] == []


# ---- errors


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[HpcError]) -> None:
    error = kind("queue 'gpu' does not exist", "choose one of: cpu")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.message, again.hint, str(again)) == (error.message, error.hint, str(error))


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_drawn_in_the_tree(kind: type[HpcError]) -> None:
    assert f"{kind.__name__} [{kind.exit_code}]" in (errors.__doc__ or "")


# ---- traces of one machine


def test_no_file_names_a_place_of_one_machine() -> None:
    places = [f"/{name}/" for name in ("work", "root", "opt/venv", "opt/pypi")]
    places += [f"{folder}/" for folder in (ROOT, Path.home()) if folder != Path("/")]
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {place}" for place in places if place in text]
    assert found == []
