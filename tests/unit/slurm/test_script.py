"""From configuration to the exact text that sbatch reads, and elements to array chunks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.config.cluster import ClusterConfig, Resources
from hpc.rundir import RunDir
from hpc.slurm import Dependency, JobSpec, render
from hpc.slurm.facts import ClusterFacts
from hpc.slurm.record import array_spec, parse_spec
from hpc.slurm.script import plan_chunks

FACTS = ClusterFacts(available=True, max_array_size=1001, preempt_mode="REQUEUE", preempt_user_signal=True)


@pytest.fixture(autouse=True)
def facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster is asked."""
    monkeypatch.setattr(sys.modules["hpc.slurm.submit"], "limits", lambda: FACTS)


def lines(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_the_whole_script_of_a_site(tmp_path: Path) -> None:
    cluster = ClusterConfig(
        executor="slurm",
        partition="gpu",
        account="proj",
        qos="normal",
        signal_seconds=90,
        python="/opt/env/bin/python",
        setup=["module load cuda/12.4"],
        extra={"constraint": "a100", "mail-type": "FAIL", "exclusive": True, "contiguous": False},
        resources={
            "serve": Resources(time_min=60, gpus=2, cpus=16, mem_gb=0.5, qos="high", extra={"constraint": "h100"})
        },
    )
    spec = JobSpec(
        "serve-tiny", "serve", [{}] * 4, throttle=2, after=[Dependency("router", "after"), Dependency("first")]
    )
    run = RunDir(Path("/runs/100% mine"))
    assert render(spec, cluster, run) == [
        """\
#!/bin/bash

# Parameters
#SBATCH --account=proj
#SBATCH --array=0-3%2
#SBATCH --constraint=h100
#SBATCH --cpus-per-task=16
#SBATCH --dependency='after:<router>,afterok:<first>'
#SBATCH --exclusive
#SBATCH --gpus-per-node=2
#SBATCH --job-name='100% mine.serve-tiny'
#SBATCH --mail-type=FAIL
#SBATCH --mem=512M
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output='/runs/100%% mine/logs/serve-tiny/%A_%a.out'
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --signal=B:USR2@90
#SBATCH --time=60

# setup
trap '' USR2
module load cuda/12.4

# command
export SUBMITIT_EXECUTOR=slurm
exec /opt/env/bin/python -P -m jobs '/runs/100% mine/elements/serve-tiny.json' --offset 0
"""
    ]


def test_chunks_differ_only_in_array_and_offset(tmp_path: Path) -> None:
    spec = JobSpec("many", "episode", [{}] * 2500)
    first, second, third = render(spec, ClusterConfig(executor="slurm"), RunDir(tmp_path))
    assert lines(first)[0] == "array=0-1000"
    assert lines(third)[0] == "array=0-497"
    assert [script.split("--offset ")[1].strip() for script in (first, second, third)] == ["0", "1001", "2002"]
    assert lines(first)[1:] == lines(second)[1:] == lines(third)[1:]


def test_several_processes_go_through_srun(tmp_path: Path) -> None:
    wide = JobSpec("wide", "train", [{}], resources=Resources(nodes=2, tasks_per_node=4, mem_gb=None))
    script = render(wide, ClusterConfig(executor="slurm"), RunDir(tmp_path))[0]
    assert {"nodes=2", "ntasks-per-node=4"} <= set(lines(script))
    assert not any(line.startswith("mem") for line in lines(script))
    assert "\nexec srun --unbuffered --kill-on-bad-exit=1 " in script
    lenient = ClusterConfig(executor="slurm", kill_on_bad_exit=False)
    assert "\nexec srun --unbuffered /" in render(wide, lenient, RunDir(tmp_path))[0]


@pytest.mark.parametrize(
    ("mode", "user_signal", "configured", "through_srun"),
    [
        ("REQUEUE", True, None, False),
        ("REQUEUE", False, None, True),  # else nobody tells the job that it is preempted
        ("OFF", False, None, False),
        ("GANG,SUSPEND", False, None, False),
        ("REQUEUE", False, False, False),
        ("OFF", False, True, True),
    ],
)
def test_srun_where_only_steps_hear_of_a_preemption(
    mode: str,
    user_signal: bool,
    configured: bool | None,
    through_srun: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ClusterFacts(available=True, preempt_mode=mode, preempt_user_signal=user_signal)
    monkeypatch.setattr(sys.modules["hpc.slurm.submit"], "limits", lambda: asked)
    cluster = ClusterConfig(executor="slurm", srun=configured)
    script = render(JobSpec("one", "router", [{}]), cluster, RunDir(tmp_path))[0]
    assert ("exec srun " in script) is through_srun


def test_a_local_plan_says_what_will_run(tmp_path: Path) -> None:
    cluster = ClusterConfig(executor="local", setup=["export A=1"], python="py")
    spec = JobSpec("job", "episode", [{}] * 9, throttle=3, after=[Dependency("first")])
    script = render(spec, cluster, RunDir(tmp_path))[0].splitlines()
    assert script[1:4] == ["# local: the elements 0-8 of job, 3 at a time", "# afterok first", "export A=1"]
    assert script[-1] == f"exec py -P -m jobs {tmp_path}/elements/job.json --in-pool PID --index INDEX"


@given(st.lists(st.integers(0, 300), min_size=1), st.integers(1, 4), st.integers(1, 40))
def test_chunks_cover_what_is_wanted_within_the_limit(elements: list[int], pack: int, limit: int) -> None:
    chunks = plan_chunks(elements, pack, limit)
    count = 301
    covered = [element for chunk in chunks for element, _ in chunk.elements(count)]
    assert len(covered) == len(set(covered))
    neighbours = {n for e in elements for n in range(e // pack * pack, min(e // pack * pack + pack, count))}
    assert set(covered) == neighbours
    assert all(0 <= task < limit for chunk in chunks for task in parse_spec(chunk.tasks))


@given(st.sets(st.integers(0, 200)))
def test_an_array_specification_is_read_as_it_was_written(tasks: set[int]) -> None:
    assert parse_spec(array_spec(tasks)) == sorted(tasks)


def test_array_specifications() -> None:
    assert array_spec([7, 0, 1, 2]) == "0-2,7"
    assert parse_spec("0-2,7%4") == [0, 1, 2, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "a/b", "payloads": [{}]}, "name is 'a/b'"),
        ({"name": "a", "payloads": []}, "no elements"),
        ({"name": "a", "payloads": [{}], "throttle": 0}, "throttle of a is 0"),
    ],
)
def test_a_job_that_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JobSpec(kind="episode", **arguments)  # type: ignore[arg-type]
