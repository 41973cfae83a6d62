from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from msgspec.structs import replace

from hpc.core.framed import FramedLog
from hpc.trajectories import codec, sealed
from hpc.trajectories.check import check, check_records
from hpc.trajectories.records import ActionTaken, Observed, Record
from tests.unit.trajectories.samples import attempt, episode, guidance, outcome

Spoil = Callable[[list[Record]], list[Record]]


def spoil_first(kind: type, **changes: object) -> Spoil:
    def spoil(records: list[Record]) -> list[Record]:
        at = next(i for i, record in enumerate(records) if isinstance(record, kind))
        return [*records[:at], replace(records[at], **changes), *records[at + 1 :]]

    return spoil


SPOILED: list[tuple[Spoil, str, str]] = [
    (spoil_first(ActionTaken, logprobs=[-0.1]), "lengths", "step 1 has 4 tokens and 1 log-probabilities"),
    (spoil_first(ActionTaken, shared_tokens=9), "lengths", "step 1 shares 9 tokens with a context of 0"),
    (spoil_first(Observed, step=2), "unobserved", "observation of step 2 for the action of step 1"),
    (
        lambda r: [x for x in r if not (isinstance(x, Observed) and x.step == 3)],
        "unobserved",
        "step 3 has no observation",
    ),
    (lambda r: [x for x in r if getattr(x, "step", 0) != 3], "order", "action of step 4 after step 2"),
    (lambda r: [*r[:6], *r[4:6], *r[6:]], "order", "action of step 2 after step 2"),
    (lambda r: [*r[:-1], guidance(1, 6), r[-1]], "guidance", "gu-1 was applied at step 6 and 6"),
    (lambda r: [*r[:-1], attempt(2), r[-1]], "order", "attempt 2 after attempt 2"),
    (lambda r: [*r[:-1], outcome(9)], "order", "the outcome counts 9 steps, the last one is 7"),
    (lambda r: [*r[:-2], r[-1]], "unobserved", "step 7 has no observation, yet the episode finished"),
]


@pytest.mark.parametrize(("spoil", "kind", "detail"), SPOILED)
def test_every_kind_of_damage_is_named(spoil: Spoil, kind: str, detail: str) -> None:
    findings = check_records(spoil(episode(7)))
    assert any(finding.kind == kind and detail in finding.detail for finding in findings), findings


def test_a_whole_episode_has_no_findings() -> None:
    assert check_records(episode(7)) == []


def test_an_engine_without_logprobs_is_not_damage() -> None:
    assert check_records(spoil_first(ActionTaken, logprobs=[])(episode(7))) == []


def test_an_episode_that_failed_in_a_step_is_whole() -> None:
    assert check_records([*episode(7)[:-2], outcome(7, "failed")]) == []


def write_log(path: Path, records: list[Record]) -> Path:
    with FramedLog(path, durable=False) as log:
        log.append(*map(codec.encode, records))
    return path


def test_a_torn_tail_is_a_note(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.frames", episode(7, finished=False))
    path.write_bytes(path.read_bytes()[:-5])
    report = check(path)
    assert (report.state, report.form, report.steps) == ("whole", "log", 6)
    assert any("torn tail" in note for note in report.notes)


def test_a_changed_last_record_is_damage(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.frames", episode(7))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    report = check(path)
    assert (report.state, report.steps) == ("damaged", 7)
    assert report.findings[0].kind == "bytes"


def test_what_follows_damage_in_a_log_is_counted(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.frames", episode(7))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    report = check(path)
    assert report.state == "damaged"
    total = len(episode(7))
    assert f"{total - report.records - 1} whole records follow" in report.findings[0].detail


def test_a_sealed_file_of_spoiled_records_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    path.write_bytes(sealed.build(spoil_first(ActionTaken, logprobs=[-0.1])(episode(7))))
    report = check(path)
    assert (report.state, report.form, report.steps) == ("damaged", "sealed", 7)
    assert [finding.kind for finding in report.findings] == ["lengths"]


def test_a_lost_table_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    path.write_bytes(sealed.build(episode(7)))
    with h5py.File(path, "r+") as file:
        del file["guidance"]
    report = check(path)
    assert (report.state, report.steps, report.records) == ("damaged", 7, len(episode(7)) - 1)
    assert "guidance" in report.findings[0].detail


@pytest.mark.parametrize("column", ["progress", "working_seconds", "token_offset", "answer_length"])
def test_a_value_changed_with_a_tool_is_found(tmp_path: Path, column: str) -> None:
    path = tmp_path / "t.h5"
    path.write_bytes(sealed.build(episode(7)))
    with h5py.File(path, "r+") as file:
        rows = file["steps"][:]
        rows[column][2] += 1
        file["steps"][:] = rows
    report = check(path)
    assert (report.state, report.steps) == ("damaged", 6)


def test_attributes_that_contradict_the_header_are_found(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    path.write_bytes(sealed.build(episode(7)))
    with h5py.File(path, "r+") as file:
        file.attrs["seed"] = 99
    assert "attribute seed" in check(path).findings[0].detail
