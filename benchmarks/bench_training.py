"""Tokens a second of our trainer against transformers with torch's AdamW: same model, threads, examples and precision.

Two datasets: examples of one length (nothing can be packed: what the trainer itself costs), and
examples of very different lengths, which we pack and the baseline pads to the longest of its batch.
Counted are the tokens of examples, never padding; both clip gradients and train the same tokens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hpc.config import compose, config_hash, to_builtins  # noqa: E402
from hpc.core.locate import data_dir  # noqa: E402
from hpc.examples import Dataset, DatasetWriter, Example  # noqa: E402
from hpc.rundir import RunDir  # noqa: E402
from hpc.training.metrics import read_metrics  # noqa: E402

MODEL = str(data_dir("models") / "minilab-tiny")
THREADS = os.cpu_count() or 1
SKIP = 2
"""Steps that warm up."""
ROUNDS = 2
BATCH = 8
"""Examples of a batch; with packing, so many tokens as they have on average."""


def write(folder: Path, lengths: list[int]) -> None:
    generator = np.random.default_rng(1)
    with DatasetWriter(folder, about={}) as writer:
        for number, length in enumerate(lengths):
            mask = np.ones(length, np.uint8)
            mask[: length // 4] = 0
            tokens = generator.integers(0, 900, length).astype(np.int32)
            writer.add(Example(id=str(number), tokens=tokens, loss_mask=mask))


def ours(root: Path, dataset: Path, *overrides: str) -> float:
    """Tokens a second of a training through the program that jobs run."""
    config = compose(
        "train",
        ["train=tiny", f"model.path={MODEL}", f"train.dataset={dataset}", "train.epochs=1", "train.optimizer.lr=1e-4",
         f"train.threads={THREADS}", "train.checkpoints.every=10000", "train.metrics.tensorboard=false", *overrides],
    )  # fmt: skip
    run = RunDir.create(root, manifest={}, config=to_builtins(config), config_hash=config_hash(config))
    words = [sys.executable, "-P", "-m", "jobs.rank", str(run.root), "--rank=0", "--world=1", "--local-rank=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*words, "--start=bench"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as it:
        assert it.stderr is not None
        said = it.stderr.read().decode()
    if it.returncode:
        raise SystemExit(said)
    steps = list(read_metrics(run.metrics, "step"))[SKIP:-1]
    return float(sum(each["tokens"] for each in steps) / sum(each["seconds"] for each in steps))


def batches(dataset: Dataset) -> Iterator[list[Example]]:
    order = np.random.default_rng(1).permutation(len(dataset))
    for start in range(0, len(order), BATCH):
        yield [dataset[int(number)] for number in order[start : start + BATCH]]


def baseline(folder: Path) -> None:
    """Print tokens a second of transformers; in a process of its own."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="sdpa").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.0)
    spent: list[tuple[int, float]] = []
    with Dataset(folder) as dataset:
        for examples in batches(dataset):
            started = time.perf_counter()
            longest = max(len(each.tokens) for each in examples)
            tokens = torch.zeros((len(examples), longest), dtype=torch.long)
            labels = torch.full((len(examples), longest), -100)
            attention = torch.zeros((len(examples), longest), dtype=torch.long)
            for row, each in enumerate(examples):
                size = len(each.tokens)
                tokens[row, :size] = torch.from_numpy(each.tokens.astype(np.int64))
                trained = torch.from_numpy(each.loss_mask.astype(bool))
                labels[row, :size][trained] = tokens[row, :size][trained]
                attention[row, :size] = 1
            full = bool(attention.all())
            output = model(input_ids=tokens, attention_mask=None if full else attention, labels=labels, use_cache=False)
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            spent.append((sum(len(each.tokens) - 1 for each in examples), time.perf_counter() - started))
    steps = spent[SKIP:-1]
    print(sum(count for count, _ in steps) / sum(seconds for _, seconds in steps))


def theirs(folder: Path) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    words = [sys.executable, __file__, "--baseline", str(folder)]
    return float(subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def report(name: str, pairs: list[tuple[float, float]], baseline_name: str, target: float) -> None:
    """The best round of each: what other work on the machine takes away is nobody's merit."""
    mine, other = max(mine for mine, _ in pairs), max(other for _, other in pairs)
    ratio = mine / other
    result = {
        "name": name,
        "value": round(mine, 1),
        "unit": "tokens/s",
        "baseline": baseline_name,
        "baseline_value": round(other, 1),
        "ratio": round(ratio, 3),
        "target": f"ratio >= {target}",
        "met": ratio >= target,
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    generator = np.random.default_rng(0)
    variable = np.clip(np.exp(generator.normal(5.2, 0.9, 96)), 24, 1500).astype(int).tolist()
    what = f"transformers + torch AdamW, fp32, {THREADS} threads"
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root / "equal", [257] * 80)
        write(root / "variable", variable)
        rows = max(1, round(BATCH * sum(variable) / len(variable) / 2048))
        equal_pairs, variable_pairs = [], []
        for number in range(ROUNDS):
            mine = ours(
                root / f"equal-{number}", root / "equal", "train.packing=false", "train.seq_length=256",
                f"train.micro_batch={BATCH}", f"train.global_batch={BATCH}",
            )  # fmt: skip
            equal_pairs.append((mine, theirs(root / "equal")))
            mine = ours(
                root / f"variable-{number}", root / "variable", "train.seq_length=2048", f"train.global_batch={rows}"
            )
            variable_pairs.append((mine, theirs(root / "variable")))
    report("training_equal_lengths", equal_pairs, what, 1.0)
    report("training_packed", variable_pairs, f"{what}, padded", 1.5)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--baseline"]:
        baseline(Path(sys.argv[2]))
    else:
        main()
