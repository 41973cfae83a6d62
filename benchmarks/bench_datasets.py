"""Building a dataset: megabytes of conversation a second, and memory that does not grow with the episodes.

The baseline makes rows as trainers' own scripts do: it reads the same trajectories, renders each whole
conversation with the chat template, tokenises it once, masks by turn and writes JSON lines. It proves
nothing and knows no engine's ids. Both run in processes of their own, in turn, three rounds; the median counts.

HPC_BENCH_EPISODES: episodes of the large build (160; the small one has a quarter), HPC_BENCH_STEPS: steps of each (60).
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hpc.datasets.chat import Chat  # noqa: E402
from hpc.trajectories import sealed  # noqa: E402
from hpc.trajectories.records import (  # noqa: E402
    Action,
    ActionTaken,
    EpisodeHeader,
    GuidanceApplied,
    Observation,
    Observed,
    OutcomeReached,
    Record,
)
from hpc.trajectories.turns import real_user  # noqa: E402

EPISODES = int(os.environ.get("HPC_BENCH_EPISODES", "160"))
STEPS = int(os.environ.get("HPC_BENCH_STEPS", "60"))
ROUNDS = 3
GROWTH_MB = 32.0
"""So much may the peak of memory grow while episodes become four times as many."""
WORDS = [
    f"{stem}{end}" for stem in ("loss ", "epoch ", "stage ", "metric ", "error: ", "path/to/") for end in range(99)
]
MODEL = "shipped:minilab-tiny"


def episode(index: int, chat: Chat) -> tuple[list[Record], int]:
    """An episode with the engine's ids, guidance every twentieth step, and the bytes of its text."""
    rng = random.Random(index)
    opening = [{"role": "system", "content": "You run a laboratory."}, {"role": "user", "content": f"Task {index}"}]
    records: list[Record] = [
        EpisodeHeader(
            episode_id=f"bench-{index:05d}", run="bench", index=index, task_id=f"t{index}", task_family="bench",
            split="train", seed=index, config_hash="0" * 16, created_at=0.0, messages=opening,
        )
    ]  # fmt: skip
    shared, size, new = 0, 0, chat.render(opening, answer=True)
    for step in range(1, STEPS + 1):
        call = {"id": f"c{step}", "type": "function", "function": {"name": "run", "arguments": f'{{"n": {step}}}'}}
        answer = f'<tool_call>{{"name": "run", "arguments": {{"n": {step}}}}}</tool_call><|end|>'
        output = " ".join(rng.choices(WORDS, k=60))
        prompt_ids, answer_ids = chat.encode(new), chat.encode(answer)
        taken = ActionTaken(
            step=step, at=float(step), action=Action(name="run", arguments={"n": step}), tool_calls=[call],
            shared_tokens=shared, new_prompt_ids=prompt_ids, token_ids=answer_ids, logprobs=[-0.5] * len(answer_ids),
        )  # fmt: skip
        records += [taken, Observed(step=step, at=float(step), observation=Observation(text=output))]
        shared += len(prompt_ids) + len(answer_ids)
        size += len(new) + len(answer)
        new = f"<|tool|>{output}<|end|>"
        if step % 20 == 0:
            said = f"try {rng.choice(WORDS)}"
            records.append(
                GuidanceApplied(
                    id=f"g{step}", alert_id=None, annotator="a", text=said, kind="knowledge", sent_at=0.0,
                    delivered_at=0.0, applied_at=0.0, applied_step=step,
                )
            )  # fmt: skip
            new += f"<|user|>{real_user(said)}<|end|>"
        new += "<|assistant|>"
    records.append(OutcomeReached(status="finished", at=0.0, steps=STEPS, working_seconds=1.0, final_score=80.0))
    return records, size


ME = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from hpc.config.dataset import DatasetConfig
from hpc.datasets.builder import build
from hpc.datasets.chat import Chat
sources, out = [Path(name) for name in json.load(sys.stdin)], Path(sys.argv[2])
config = DatasetConfig(arm="bench", filter=False, guidance="drop")
chat = Chat.load(config.model)
started = time.perf_counter()
report = build(sources, out, config, chat, None, name="bench")
seconds = time.perf_counter() - started
assert report.examples["train"] == len(sources), report
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""

BASELINE = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from hpc.datasets.chat import Chat
from hpc.trajectories.exchange.conversation import parts_of
from hpc.trajectories.reader import Trajectory
sources, out = [Path(name) for name in json.load(sys.stdin)], Path(sys.argv[2])
chat = Chat.load("shipped:minilab-tiny")
begin, ends = chat.generation[0], chat.end_of_turn
started = time.perf_counter()
with out.open("w") as file:
    for path in sources:
        with Trajectory.open(path) as trajectory:
            messages = [message for part in parts_of(trajectory.records()) for message in part.messages]
        ids = chat.encode(chat.render(messages))
        labels, inside = [], False
        for token in ids:
            labels.append(token if inside else -100)
            inside = token == begin or (inside and token not in ends)
        file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\\n")
seconds = time.perf_counter() - started
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def measured(program: str, sources: list[Path], out: Path) -> tuple[float, float]:
    """Seconds of the build, and the peak of the process's memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), str(out)],
        input=json.dumps([str(path) for path in sources]), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    seconds, peak = json.loads(done.stdout)
    return float(seconds), float(peak)


def report(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def main(root: Path) -> None:
    chat = Chat.load(MODEL)
    sources: list[Path] = []
    size = 0
    for index in range(EPISODES):
        records, text = episode(index, chat)
        sources.append(root / f"{index:05d}.h5")
        sources[-1].write_bytes(sealed.build(records))
        size += text
    ours, theirs, large = [], [], 0.0
    for number in range(ROUNDS):
        seconds, large = measured(ME, sources, root / f"set-{number}")
        ours.append(size / 1e6 / seconds)
        seconds, _ = measured(BASELINE, sources, root / f"rows-{number}.jsonl")
        theirs.append(size / 1e6 / seconds)
    _, small = measured(ME, sources[: EPISODES // 4], root / "small")
    speed, other = statistics.median(ours), statistics.median(theirs)
    report(
        name=f"dataset build, {EPISODES} episodes of {STEPS} steps", value=round(speed, 2), unit="MB text/s",
        baseline="render, tokenise and mask each conversation, JSON lines", baseline_value=round(other, 2),
        ratio=round(speed / other, 2), target=1.0, met=speed >= other,
    )  # fmt: skip
    report(
        name=f"peak memory of building {EPISODES} episodes", value=round(large, 1), unit="MB",
        baseline=f"of {EPISODES // 4} episodes", baseline_value=round(small, 1), ratio=round(large / small, 3),
        target=round(1 + GROWTH_MB / small, 3), met=large - small <= GROWTH_MB,
    )  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
