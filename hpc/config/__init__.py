"""Configuration: composed by Hydra from ``configs/``, then validated by msgspec structs."""

from hpc.config.compose import KINDS, compose, config_hash, list_configs, to_builtins

__all__ = ["KINDS", "compose", "config_hash", "list_configs", "to_builtins"]
