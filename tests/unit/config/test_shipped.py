"""Every file under configs/ composes for the kind it belongs to, and every field says what it is."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest

from hpc.config import KINDS, compose, config_hash, list_configs, to_builtins
from hpc.config.base import Config
from hpc.config.compose import schema
from hpc.core.locate import data_dir

NEEDS = {
    "model=custom": ["model.name=mine", "model.path=/models/mine"],
    "runtime=apptainer": ["runtime.image=vllm.sif"],
    "server=external": ["server.urls=[http://host:8000/v1]"],
}
"""What an option leaves to the user."""


def cases() -> list[tuple[str, str]]:
    """(kind, option override) for every option of every group that the kind has."""
    found = []
    for group, options in list_configs().items():
        kinds = [kind for kind in KINDS if group in groups_of(kind)]
        found += [(kind, f"{group}={option}") for kind in kinds for option in options]
    return found


def groups_of(kind: str) -> set[str]:
    """Groups in the defaults list of a root file."""
    from omegaconf import OmegaConf

    defaults: Any = OmegaConf.to_container(OmegaConf.load(data_dir("configs") / f"{kind}.yaml"))
    return {name for entry in defaults["defaults"] if isinstance(entry, dict) for name in entry}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_composes_as_shipped(kind: str) -> None:
    assert type(compose(kind)) is schema(kind)


@pytest.mark.parametrize(("kind", "option"), cases())
def test_every_option_composes_for_its_kind(kind: str, option: str) -> None:
    config = compose(kind, [option, *(NEEDS.get(option, []))])
    again = msgspec.convert(to_builtins(config), schema(kind))
    assert again == config and config_hash(again) == config_hash(config)


def test_no_group_is_an_orphan() -> None:
    known = set().union(*(groups_of(kind) for kind in KINDS))
    assert set(list_configs()) - {""} == known


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_group_of_a_kind_is_a_field_of_its_struct(kind: str) -> None:
    fields = {field.name for field in msgspec.structs.fields(schema(kind))}
    assert groups_of(kind) - {"experiment"} <= fields


def test_every_file_begins_with_what_it_is_for() -> None:
    files = sorted(data_dir("configs").rglob("*.yaml"))
    assert files
    for path in files:
        lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
        assert lines[0].startswith("# ") and len(lines[0]) > 20, path


# ---- the structs


def structs(kind: Any, seen: set[Any] | None = None) -> Iterator[type[Config]]:
    """A struct and all structs below it."""
    seen = set() if seen is None else seen
    if isinstance(kind, type) and issubclass(kind, Config):
        if kind in seen:
            return
        seen.add(kind)
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from structs(field.type, seen)
    for argument in get_args(kind):
        yield from structs(argument, seen)


ALL = sorted({struct for kind in KINDS for struct in structs(schema(kind))}, key=lambda struct: struct.__name__)


ROOTS = {schema(kind) for kind in KINDS}
"""Their fields are the groups, whose structs say what they are."""


@pytest.mark.parametrize(
    "struct", [struct for struct in ALL if struct not in ROOTS], ids=lambda struct: struct.__name__
)
def test_every_field_has_a_docstring_beneath_it(struct: type[Config]) -> None:
    assert struct.__doc__
    tree = ast.parse(inspect.getsource(sys.modules[struct.__module__]))
    (body,) = (node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == struct.__name__)
    for node, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            assert documented, f"{struct.__name__}.{ast.unparse(node.target)} has no docstring"


@pytest.mark.parametrize("struct", ALL, ids=lambda struct: struct.__name__)
def test_values_never_change(struct: type[Config]) -> None:
    assert struct.__struct_config__.frozen and struct.__struct_config__.forbid_unknown_fields
