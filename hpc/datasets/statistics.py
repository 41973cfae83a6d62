"""What is in a dataset, in figures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hpc.core.errors import DatasetError
from hpc.examples import MANIFEST, Dataset
from hpc.examples.manifest import Manifest

QUANTILES = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset at a glance. ``guidance`` is the arm's option for the training context."""

    name: str
    folder: str
    arm: str
    guidance: str
    filter: bool | None
    examples: dict[str, int]
    tokens: int
    trained_tokens: int
    created_at: float
    content: str


def summary(folder: Path) -> Summary:
    """From the manifest alone.

    Raises:
        DatasetError: there is no whole dataset.
    """
    manifest = Manifest.read(folder / MANIFEST)
    about = manifest.about
    config = about.get("config") or {}
    examples: Counter[str] = Counter()
    for shard in manifest.shards:
        examples[shard.split] += shard.examples
    return Summary(
        name=str(about.get("name") or folder.name),
        folder=str(folder),
        arm=str(about.get("arm", "")),
        guidance=guidance_option(config),
        filter=config.get("filter"),
        examples=dict(examples),
        tokens=sum(shard.tokens for shard in manifest.shards),
        trained_tokens=sum(shard.trained_tokens for shard in manifest.shards),
        created_at=manifest.created_at,
        content=manifest.content,
    )


def guidance_option(config: dict[str, Any]) -> str:
    """``keep``, ``drop`` or ``drop 0.5``."""
    option = str(config.get("guidance", ""))
    return f"drop {config.get('drop_probability', 0):g}" if option == "sometimes" else option


def datasets_under(root: Path) -> tuple[list[Summary], dict[str, str]]:
    """The datasets in the folders of ``root``, newest first, and why others cannot be read."""
    found, broken = [], {}
    for path in sorted(root.glob(f"*/{MANIFEST}")):
        try:
            found.append(summary(path.parent))
        except DatasetError as error:
            broken[path.parent.name] = error.message
    return sorted(found, key=lambda each: -each.created_at), broken


def statistics(folder: Path) -> dict[str, Any]:
    """Per split counts and quantiles of lengths (tokens), and what the build left out and why.

    Raises:
        DatasetError: there is no whole dataset, or it is damaged.
    """
    manifest = Manifest.read(folder / MANIFEST)
    splits = {}
    for split in sorted({shard.split for shard in manifest.shards}):
        with Dataset(folder, split=split) as dataset:
            trained = np.zeros(len(dataset), np.int64)
            answers = context_only = 0
            tasks: set[str] = set()
            for number, example in enumerate(dataset):
                trained[number] = example.trained
                answers += len(example.meta.get("spans", []))
                context_only += len(example.meta.get("context_only", []))
                tasks.add(f"{example.meta.get('task_family')}/{example.meta.get('task_id')}")
            splits[split] = {
                "examples": len(dataset),
                "tasks": len(tasks),
                "tokens": int(dataset.lengths.sum()),
                "trained_tokens": int(trained.sum()),
                "trained_answers": answers,
                "context_only_answers": context_only,
                "length": _quantiles(dataset.lengths),
                "trained_per_example": _quantiles(trained),
            }
    about = manifest.about
    return {
        **msgspec.to_builtins(summary(folder)),
        "splits": splits,
        "counts": about.get("counts", {}),
        "config": about.get("config", {}),
        "tokenizer": about.get("tokenizer", {}),
        "git": about.get("git"),
        "sources": len(about.get("sources", [])),
    }


def _quantiles(values: NDArray[np.int64]) -> dict[str, int]:
    return {name: int(np.quantile(values, share)) for name, share in QUANTILES.items()}
