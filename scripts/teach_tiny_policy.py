"""Teach a tiny policy for MiniLab from scratch with this project's own trainer.

    python scripts/teach_tiny_policy.py --out work/policy --work work/tiny

A random model is written in Hugging Face format, and `hpc train sft` teaches it three lessons one after the
other (bare words, drills, episodes), each going on with the weights and the optimizer of the one before. The
demonstrations are those of `make_tiny_policy.py`, by which the shipped policy was made; of this way only the
first lesson has been run to its end (220 steps, loss 6.96 to 1.1).

Interrupted, it goes on from the last checkpoint when it is started again with the same --work.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TOKENS = {"words": 900_000, "drills": 1_200_000, "episodes": 1_600_000}
"""Length of each lesson, tokens."""
RATE = 2e-3
LAST_RATE = 6e-5
ROW, ROWS = 2048, 2
"""Tokens of a row and rows of a step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, tokenizer and template")
    parser.add_argument("--work", type=Path, required=True, help="folder for lessons, trainings and the random model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    from tiny_policy.lessons import LESSONS, write_lesson
    from tiny_policy.random_model import write_random_model
    from tiny_policy.tokens import build

    work = arguments.work.absolute()
    tokenizer = build(arguments.seed)
    blank = work / "blank"
    if not (blank / "STABLE").exists():
        write_random_model(blank, tokenizer, arguments.seed)
    before = None
    for name in LESSONS:
        lesson = work / "lessons" / name
        if not (lesson / "manifest.json").exists():
            shutil.rmtree(lesson, ignore_errors=True)
            write_lesson(name, lesson, tokenizer, blank, tokens=TOKENS[name], seed=arguments.seed)
        last = name == list(LESSONS)[-1]
        overrides = [
            "train=tiny", "cluster=local", f"run.root={work / 'runs'}", f"run.name={name}", "model.name=minilab-tiny",
            f"model.path={blank}", f"train.dataset={lesson}", f"train.seq_length={ROW}", f"train.global_batch={ROWS}",
            "train.epochs=1", f"train.threads={arguments.threads}", f"train.seed={arguments.seed}",
            "train.optimizer.kind=muon", f"train.optimizer.lr={RATE}", f"train.optimizer.min_lr={LAST_RATE}",
            f"train.optimizer.schedule={'cosine' if last else 'constant'}",
            f"train.optimizer.warmup_steps={0 if before else 30}", "train.checkpoints.keep=1",
        ]  # fmt: skip
        if before is not None:
            overrides.append(f"train.warm_start={work / 'runs' / before}")
        subprocess.run([sys.executable, "-m", "hpc.cli", "train", "sft", *overrides, "--watch"], check=True)
        before = name
    export = ["checkpoint", "export", str(before), "--runs", str(work / "runs"), "--to", str(work / "export")]
    shutil.rmtree(work / "export", ignore_errors=True)
    subprocess.run([sys.executable, "-m", "hpc.cli", *export, "--dtype", "bfloat16"], check=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in (work / "export").iterdir():
        if path.name != "STABLE":
            shutil.copyfile(path, arguments.out / path.name)


if __name__ == "__main__":
    main()
