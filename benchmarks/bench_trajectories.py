"""The trajectory store: durable appends, bytes on disk, opening a long episode, streaming it.

A step is two records (action, observation), each durable (fdatasync) before the next; the baselines
write the same bytes just as often: raw h5py (one extensible byte array, flush and fdatasync) and JSON
lines (fdatasync). All on the disk of the temporary folder, in turn, three rounds, the median counts.

HPC_BENCH_STEPS: steps of the long episode (2500), HPC_BENCH_TOKENS: tokens of its context at the end
(160,000: 200 million summed over its prompts).
"""

from __future__ import annotations

import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import zstandard
from msgspec.structs import replace

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hpc.rundir import RunDir  # noqa: E402
from hpc.trajectories import sealed  # noqa: E402
from hpc.trajectories.codec import to_json  # noqa: E402
from hpc.trajectories.collection import TrajectorySet  # noqa: E402
from hpc.trajectories.reader import Trajectory  # noqa: E402
from hpc.trajectories.records import (  # noqa: E402
    Action,
    ActionTaken,
    AttemptStarted,
    EpisodeHeader,
    Observation,
    Observed,
    OutcomeReached,
    Record,
)
from hpc.trajectories.writer import TrajectoryWriter  # noqa: E402

STEPS = int(os.environ.get("HPC_BENCH_STEPS", "2500"))
TOKENS = int(os.environ.get("HPC_BENCH_TOKENS", "160000"))
APPENDED = {4096: 1500, 65536: 500}  # bytes of a step: steps in a round, so many that making the live view is little
RUN_FILES, RUN_STEPS = 40, 800  # a run of 1 GB: trajectories, and steps of 32 KB in each
NAIVE_STEPS = 250
WORDS = [
    f"{stem}{end}" for stem in ("train", "loss", "epoch", "layer", "path/to/", "error: ", "0.") for end in range(99)
]


def text_of(rng: random.Random, size: int) -> str:
    """Output as programs print it: words that come again."""
    return " ".join(rng.choices(WORDS, k=size // 6 + 1))[:size]


def episode(steps: int, size: int, tokens: int) -> list[Record]:
    """A made-up episode; a step holds ``size`` bytes of text and adds ``tokens`` ids to the context."""
    rng = random.Random(steps)
    header = EpisodeHeader(
        episode_id="bench-00000", run="bench", index=0, task_id="bench/0", task_family="bench", split="test",
        seed=0, config_hash="c0ffee", created_at=1.0,
    )  # fmt: skip
    records: list[Record] = [header, AttemptStarted(epoch=1, at=1.0, host="here")]
    context = 0
    for step in range(1, steps + 1):
        new = [rng.randrange(150_000) for _ in range(tokens * 3 // 4)]
        answer = [rng.randrange(150_000) for _ in range(tokens - len(new))]
        taken = ActionTaken(
            step=step, at=float(step), action=Action(name="run_command", arguments={"command": text_of(rng, 80)}),
            text=text_of(rng, size // 8), shared_tokens=context, new_prompt_ids=new, token_ids=answer,
            logprobs=[round(-rng.random(), 4) for _ in answer],
        )  # fmt: skip
        context += len(new) + len(answer)
        seen = Observation(text=text_of(rng, size - size // 8))
        records += [taken, Observed(step=step, at=float(step), observation=seen, working_seconds=float(step))]
    return [*records, OutcomeReached(status="finished", at=9.0, steps=steps, working_seconds=9.0)]


def new_run(folder: Path, name: str) -> RunDir:
    return RunDir.create(folder / name, manifest={}, config={}, config_hash="c0ffee")


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def append_ours(folder: Path, name: str, records: list[Record]) -> float:
    with TrajectoryWriter.open(new_run(folder, name), 0) as writer:
        writer.append(*records[:2])

        def work() -> None:
            for record in records[2:-1]:
                writer.append(record)

        return timed(work)


def append_h5py(folder: Path, name: str, records: list[Record]) -> float:
    with h5py.File(folder / f"{name}.h5", "w", libver="latest") as file:
        data = file.create_dataset("data", (0,), "u1", maxshape=(None,), chunks=(65536,))
        handle = file.id.get_vfd_handle()

        def work() -> None:
            for record in records[2:-1]:
                part = np.frombuffer(to_json(record), "u1")
                start = len(data)
                data.resize((start + len(part),))
                data[start:] = part
                file.flush()
                os.fdatasync(handle)

        return timed(work)


def append_jsonl(folder: Path, name: str, records: list[Record]) -> float:
    with (folder / f"{name}.jsonl").open("wb") as file:

        def work() -> None:
            for record in records[2:-1]:
                file.write(to_json(record) + b"\n")
                file.flush()
                os.fdatasync(file.fileno())

        return timed(work)


def result(name: str, value: float, unit: str, baseline: str, other: float, target: str, met: bool) -> None:
    print(
        json.dumps(
            {
                "name": name,
                "value": round(value, 3),
                "unit": unit,
                "baseline": baseline,
                "baseline_value": round(other, 3),
                "ratio": round(value / other, 3) if other else None,
                "target": target,
                "met": met,
            }
        ),
        flush=True,
    )


def bench_append(folder: Path) -> None:
    for size, steps in APPENDED.items():
        records = episode(steps, size, 16)
        ways: dict[str, Callable[[Path, str, list[Record]], float]] = {
            "ours": append_ours, "h5py": append_h5py, "jsonl": append_jsonl,
        }  # fmt: skip
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(3):
            for way, append in ways.items():
                spent[way].append(append(folder, f"{way}-{size}-{number}", records))
        rate = {way: steps / statistics.median(times) for way, times in spent.items()}
        for way, words, least in (
            ("h5py", "raw h5py, flush and fdatasync", 0.8),
            ("jsonl", "JSON lines, fdatasync", 1.0),
        ):
            met = rate["ours"] >= least * rate[way]
            name = f"trajectory_append_{size // 1024}k_vs_{way}"
            result(name, rate["ours"], "steps/s", words, rate[way], f"ratio >= {least}", met)


def bench_size(folder: Path, records: list[Record]) -> Path:
    image = sealed.build(records)
    path = folder / "long.h5"
    path.write_bytes(image)
    lines = zstandard.ZstdCompressor(level=3).compress(b"".join(to_json(record) + b"\n" for record in records))
    target = "ratio <= 1.2"
    result(
        "trajectory_bytes", len(image), "B", "JSON lines in zstd 3", len(lines), target, len(image) <= 1.2 * len(lines)
    )
    few = episode(NAIVE_STEPS, 8192, TOKENS // STEPS)
    naive = folder / "naive.h5"
    with h5py.File(naive, "w") as file:
        context: list[int] = []
        for record in few:
            if isinstance(record, ActionTaken):
                context += record.new_prompt_ids
                ids = np.array(context, "<i8")
                file.create_dataset(f"{record.step}/prompt", data=ids, shuffle=True, **hdf5plugin.Zstd(clevel=3))
                context += record.token_ids
            elif isinstance(record, Observed):
                file[f"{record.step}/observation"] = record.observation.text
    ours, whole = len(sealed.build(few)), naive.stat().st_size
    words = f"HDF5 with each step's whole prompt in zstd 3, {NAIVE_STEPS} steps"
    result("trajectory_bytes_vs_whole_contexts", ours, "B", words, whole, "ratio <= 0.5", ours <= 0.5 * whole)
    return path


def bench_open(path: Path) -> None:
    def read_one() -> None:
        with Trajectory.open(path) as trajectory:
            _ = trajectory.steps[STEPS // 2]

    def read_all() -> None:
        path.read_bytes()

    read_one()
    value = 1000 * statistics.median(timed(read_one) for _ in range(7))
    bare = 1000 * statistics.median(timed(read_all) for _ in range(7))
    result("trajectory_open_and_read_one_step", value, "ms", "reading its bytes", bare, "value < 100", value < 100)


def peak(path: Path) -> float:
    """Peak memory, in MB, of a process that reads every record of the file."""
    done = subprocess.run([sys.executable, __file__, str(path)], stdout=subprocess.PIPE, check=True, cwd=ROOT)
    return float(done.stdout)


def stream(path: Path) -> None:
    """Read every record of a file, or of all trajectories of a run."""
    if path.is_dir():
        for trajectory in TrajectorySet.open(path):
            for _ in trajectory.records():
                pass
    else:
        with Trajectory.open(path) as trajectory:
            for _ in trajectory.records():
                pass
    status = Path("/proc/self/status").read_text()  # the resource usage would count what started us
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def bench_memory(folder: Path, path: Path) -> None:
    small = folder / "small.h5"
    small.write_bytes(sealed.build(episode(max(1, STEPS // 10), 8192, TOKENS // STEPS)))
    value, other = peak(path), peak(small)
    met = value <= 1.5 * other
    result("trajectory_stream_memory", value, "MB", "a tenth of the steps", other, "ratio <= 1.5", met)


def bench_run(folder: Path) -> None:
    """A run of 1 GB of texts that hardly compress, against its first tenth."""
    rng = random.Random(1)
    records = [
        replace(record, observation=replace(record.observation, text=rng.randbytes(16_000).hex()))
        if isinstance(record, Observed)
        else record
        for record in episode(RUN_STEPS, 64, 16)
    ]
    image = folder / "image.h5"
    image.write_bytes(sealed.build(records))
    peaks = []
    for name, count in (("whole", RUN_FILES), ("tenth", RUN_FILES // 10)):
        run = new_run(folder, name)
        for index in range(count):
            os.link(image, run.trajectory(index))  # one file on disk, read as often as there are names
        peaks.append(peak(run.root))
    gigabytes = RUN_FILES * RUN_STEPS * 32_000 / 1e9
    words = f"a tenth of the {gigabytes:.2f} GB"
    result("trajectory_stream_run_memory", peaks[0], "MB", words, peaks[1], "ratio <= 1.1", peaks[0] <= 1.1 * peaks[1])


def main() -> None:
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench_append(folder)
        path = bench_size(folder, episode(STEPS, 8192, TOKENS // STEPS))
        bench_open(path)
        bench_memory(folder, path)
        bench_run(folder)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        stream(Path(sys.argv[1]))
    else:
        main()
