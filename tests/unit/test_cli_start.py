"""The command line starts fast, and each noun says how it is used."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from hpc.cli import NOUNS, cli

HEAVY = [
    "torch",
    "hydra",
    "omegaconf",
    "h5py",
    "submitit",
    "numpy",
    "scipy",
    "zmq",
    "rich",
    "msgspec",
    "httpx",
    "jinja2",
]
"""Packages that only the command which needs them may load."""

LOADED = """
import json, sys
{prelude}
try:
    from hpc.cli import main
    main({arguments!r})
except SystemExit as ended:
    print(json.dumps({{"exit": ended.code, "modules": sorted(sys.modules)}}), file=sys.stderr)
"""


def run(arguments: list[str], prelude: str = "") -> tuple[int, set[str]]:
    """Exit status of the command line in a fresh interpreter, and the top-level modules it loaded."""
    script = LOADED.format(prelude=prelude, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    result = json.loads(done.stderr.strip().splitlines()[-1])
    return result["exit"], {name.partition(".")[0] for name in result["modules"]}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["episodes", "--help"], ["eval", "--help"], ["no-such-noun"]], ids=" ".join
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    if arguments[0] in NOUNS:
        pytest.importorskip(NOUNS[arguments[0]][0].partition(":")[0])
    status, modules = run(arguments)
    assert status == (2 if arguments == ["no-such-noun"] else 0)
    assert modules & set(HEAVY) == set()


def test_the_probe_sees_what_is_loaded() -> None:
    assert "numpy" in run(["--help"], prelude="import numpy")[1]


def test_the_module_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "hpc.cli", "--help"], capture_output=True, text=True, check=True)
    assert (
        done.stdout
        == subprocess.run(
            [sys.executable, "-c", "from hpc.cli import main; main(['--help'])"], capture_output=True, text=True
        ).stdout
    )
    assert all(noun in done.stdout for noun in NOUNS)


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_every_noun_shows_an_example(noun: str) -> None:
    shown = CliRunner().invoke(cli, [noun, "--help"])
    assert shown.exit_code == 0, shown.output
    assert "Example" in shown.output


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_every_verb_says_what_it_does_and_shows_an_example(noun: str) -> None:
    group = cli.get_command(click.Context(cli), noun)
    assert group is not None
    for verb, command in getattr(group, "commands", {}).items():
        shown = CliRunner().invoke(cli, [noun, verb, "--help"])
        assert shown.exit_code == 0, shown.output
        assert command.help and "Example" in shown.output, f"hpc {noun} {verb} shows no example"


def test_an_unknown_noun_names_the_known_ones() -> None:
    done = subprocess.run([sys.executable, "-m", "hpc.cli", "episode"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "No such command 'episode'" in done.stderr and "episodes" in done.stderr
    assert "Traceback" not in done.stderr
