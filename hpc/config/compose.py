"""Compose a configuration with Hydra, then validate it.

A site keeps its own groups in folders named by ``HPC_CONFIG_PATH`` (colon-separated); they are
searched before the shipped ``configs/``.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpc.config.base import Config
from hpc.core.errors import ConfigError
from hpc.core.locate import data_dir

KINDS: dict[str, str] = {
    "episodes": "hpc.config.episodes:EpisodesConfig",
    "server": "hpc.config.server:ServerRunConfig",
    "router": "hpc.config.router:RouterRunConfig",
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


def search_path() -> list[Path]:
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


def _raw(kind: str, overrides: Sequence[str]) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    *sites, shipped = search_path()
    extra = [f"hydra.searchpath=[{','.join(f'file://{site}' for site in sites)}]"] if sites else []
    try:
        with initialize_config_dir(config_dir=str(shipped), version_base="1.3"):
            composed = hydra_compose(config_name=kind, overrides=[*extra, *overrides])
        value = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(kind, error), f"see `hpc config list` and `hpc config show {kind}`") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{kind}.yaml does not hold a mapping")
    return {str(key): item for key, item in value.items()}


def _one_line(kind: str, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if match := re.search(r"Key '([^']+)' is not in struct", str(error)):
        path = next((line.split("full_key:")[1].strip() for line in lines if "full_key:" in line), match.group(1))
        return f"unknown key {path!r} in the {kind} configuration"
    if match := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return f"{match.group(1)} has no value in the {kind} configuration"
    options = next((i for i, line in enumerate(lines) if line.startswith("Available options")), None)
    if options is not None:
        text += f" Known: {', '.join(lines[options + 1 :])}"
    return text


def _explain(kind: str, struct: type[Config], error: msgspec.ValidationError) -> ConfigError:
    """One line with the dotted path, and the fix."""
    text = str(error)
    path = ""
    if match := re.search(r" - at `\$\.?([^`]*)`$", text):
        path, text = match.group(1), text[: match.start()]
    if match := re.search(r"unknown field `([^`]+)`", text):
        name = match.group(1)
        known = _fields_at(struct, path)
        near = difflib.get_close_matches(name, known, n=1)
        full = f"{path}.{name}" if path else name
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return ConfigError(f"unknown key {full!r} in the {kind} configuration", hint)
    if match := re.search(r"missing required field `([^`]+)`", text):
        full = f"{path}.{match.group(1)}" if path else match.group(1)
        return ConfigError(f"{full} has no value in the {kind} configuration", f"give one, as in {full}=VALUE")
    where = path or kind
    return ConfigError(f"{where}: {text[0].lower()}{text[1:]}", f"see `hpc config show {kind}`")


def _fields_at(struct: type[Any], path: str) -> list[str]:
    """Names of the fields of the struct at a dotted path below ``struct``."""
    current: Any = struct
    for part in filter(None, re.split(r"[.\[]", path)):
        info = {field.name: field.type for field in msgspec.structs.fields(current)}
        candidates = [info[part], *getattr(info[part], "__args__", ())] if part in info else []
        current = next(
            (kind for kind in candidates if isinstance(kind, type) and issubclass(kind, msgspec.Struct)), None
        )
        if current is None:
            return []
    return [field.name for field in msgspec.structs.fields(current)]


def compose(kind: str, overrides: Sequence[str] = ()) -> Any:
    """The validated configuration of one kind.

    Args:
        kind: one of `KINDS`.
        overrides: Hydra overrides such as ``server=tiny`` or ``agent.max_steps=50``.

    Raises:
        ConfigError: an unknown key or option, a wrong type or a missing value; one line with the
            dotted path and the fix.
    """
    struct = schema(kind)
    try:
        return msgspec.convert(_raw(kind, overrides), struct)
    except msgspec.ValidationError as error:
        raise _explain(kind, struct, error) from None


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
    for folder in search_path():
        for path in folder.glob("*/*.yaml"):
            groups.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(options) for group, options in sorted(groups.items())}
