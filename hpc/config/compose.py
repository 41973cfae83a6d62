"""Compose a configuration with Hydra, then validate it.

A site keeps its own groups in folders named by ``HPC_CONFIG_PATH`` (colon-separated); they are
searched before the shipped ``configs/``.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from hpc.config.base import Config
from hpc.core.errors import ConfigError
from hpc.core.locate import data_dir

KINDS: dict[str, str] = {
    "dataset": "hpc.config.dataset:DatasetBuildConfig",
    "drift": "hpc.config.drift:DriftStudyConfig",
    "episodes": "hpc.config.episodes:EpisodesConfig",
    "server": "hpc.config.server:ServerRunConfig",
    "grpo": "hpc.config.grpo:GrpoRunConfig",
    "router": "hpc.config.router:RouterRunConfig",
    "supervision": "hpc.config.supervision:SupervisionRunConfig",
    "train": "hpc.config.train:TrainRunConfig",
}
"""Job kind -> the struct that its composed configuration must fit. The root file is ``KIND.yaml``."""

SEARCH_PATH_VARIABLE = "HPC_CONFIG_PATH"


def schema(kind: str) -> type[Config]:
    """The struct of a kind.

    Raises:
        ConfigError: no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown configuration kind {kind!r}", f"one of: {', '.join(sorted(KINDS))}")
    module, name = KINDS[kind].split(":")
    struct: type[Config] = getattr(importlib.import_module(module), name)
    return struct


def search_path_folders() -> list[Path]:
    """Site folders first, the shipped ``configs/`` last."""
    folders = []
    for entry in os.environ.get(SEARCH_PATH_VARIABLE, "").split(":"):
        if not entry:
            continue
        folder = Path(entry).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"{SEARCH_PATH_VARIABLE} names {entry!r}, which is not a folder", "mend the variable")
        folders.append(folder.resolve())
    return [*folders, data_dir("configs")]


@cache
def _search_sites() -> None:
    """Make Hydra look into the site folders first. Its own ``hydra.searchpath`` comes last, so that
    a site could add options but never replace one."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class SiteFolders(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for site in search_path_folders()[:-1]:
                search_path.prepend(provider="site", path=f"file://{site}", anchor="main")

    Plugins.instance().register(SiteFolders)


def _as_hydra(override: str, groups: Collection[str]) -> str:
    """An override as Hydra shall read it: a value may be set whether or not a file mentions it, for
    the structs know the keys better than the files do."""
    match = re.fullmatch(r"(\+\+|\+|~)?([^=~+\s]+)(=.*)?", override, re.DOTALL)
    if match is None or (match[3] is None and match[1] != "~"):
        raise ConfigError(f"override {override!r} is not KEY=VALUE", "write it as in agent.max_steps=50 or server=tiny")
    sign, key, _ = match.groups()
    is_value = sign is None and "/" not in key and key.partition("@")[0] not in groups
    return f"++{override}" if is_value and not key.startswith("hydra.") else override


def _raw(kind: str, overrides: Sequence[str]) -> dict[str, Any]:
    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from hpc.config.explain import composition_error

    _search_sites()
    groups = sorted(set(list_configs()) - {""})
    wanted = [_as_hydra(override, groups) for override in overrides]
    try:
        with initialize_config_dir(config_dir=str(search_path_folders()[-1]), version_base="1.3"):
            composed = hydra_compose(config_name=kind, overrides=wanted)
        value = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise composition_error(kind, schema(kind), error) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}", "mend that file") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{kind}.yaml does not hold a mapping")
    return {str(key): item for key, item in value.items()}


def compose(kind: str, overrides: Sequence[str] = ()) -> Any:
    """The validated configuration of one kind.

    Args:
        kind: one of `KINDS`.
        overrides: Hydra overrides such as ``server=tiny`` or ``agent.max_steps=50``.

    Raises:
        ConfigError: an unknown key or option, a wrong type or a missing value; one line with the
            dotted path and the fix.
    """
    from hpc.config.explain import validation_error

    struct = schema(kind)
    value = _raw(kind, overrides)
    try:
        return msgspec.convert(value, struct)
    except msgspec.ValidationError as error:
        raise validation_error(kind, struct, value, error) from None


def to_builtins(config: Config) -> dict[str, Any]:
    """The configuration as plain JSON-able values."""
    value: dict[str, Any] = msgspec.to_builtins(config)
    return value


def config_hash(config: Config) -> str:
    """First 16 hex digits of SHA-256 over the canonical JSON of the configuration."""
    return hashlib.sha256(msgspec.json.encode(config, order="deterministic")).hexdigest()[:16]


def list_configs() -> dict[str, list[str]]:
    """Group -> its options, over the whole search path; the group ``""`` lists the kinds."""
    groups: dict[str, set[str]] = {"": set(KINDS)}
    for folder in search_path_folders():
        for path in folder.glob("*/*.yaml"):
            groups.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(options) for group, options in sorted(groups.items())}
