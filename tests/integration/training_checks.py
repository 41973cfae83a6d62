"""Checks of the trainer in many layouts: ``training_checks FOLDER CASES_JSON``.

Importing Megatron-core takes seconds, so one process imports it and forks the ranks of each case. Each
case prints a JSON line: its name and what was found, or the error.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.layout_checks import check_export, check_layout, check_logits, check_masked, make_reference

# isort: split
import torch
import torch.distributed as dist

from tests.integration.lora_checks import check_adapters, check_training

CHECKS: dict[str, Callable[[Path, dict[str, Any]], dict[str, Any]]] = {
    "layout": check_layout,
    "logits": check_logits,
    "masked": check_masked,
    "export": check_export,
    "adapters": check_adapters,
    "training": check_training,
}


def work(rank: int, root: Path, case: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    out = root / "results" / f"{case['name']}-{rank}.json"
    try:
        rendezvous = f"file://{root}/meet-{case['name']}"
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=case["world"])
        found = CHECKS[case["check"]](root, case)
        dist.barrier()
        dist.destroy_process_group()
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    out.write_text(json.dumps(found))


def main() -> None:
    root, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    for folder in ("results", "exports"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in dict.fromkeys(case["model"] for case in cases):
        make_reference(root, name)
    forked = multiprocessing.get_context("fork")
    for case in cases:
        ranks = [forked.Process(target=work, args=(rank, root, case)) for rank in range(case["world"])]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(120)
        found: dict[str, Any] = {}
        for rank, process in enumerate(ranks):
            if process.exitcode is None:
                process.kill()
                found = {"error": f"rank {rank} does not end"}
            with contextlib.suppress(FileNotFoundError):
                theirs = json.loads((root / "results" / f"{case['name']}-{rank}.json").read_text())
                if rank == 0 or "error" in theirs:
                    found = found if "error" in found else theirs
        print(json.dumps({"name": case["name"], **(found or {"error": "no rank said anything"})}), flush=True)


if __name__ == "__main__":
    main()
