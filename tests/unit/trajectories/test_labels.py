"""The file of labels: added to by many, read in any state, never rewritten."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from pathlib import Path
from typing import Any

from hpc.core.errors import TrajectoryError
from hpc.trajectories.labels import Label, Pass, add_labels, is_done, labels_path, read_labels


def a_label(step: int, rule: str = "r", version: int = 1, **fields: Any) -> Label:
    given = {"verdict": "suboptimal", "reason": "why", "author_kind": "rule", "author": "rules"} | fields
    return Label(step=step, rule=rule, rule_version=version, **given)


def a_pass(rule: str = "r", version: int = 1, steps: int = 9) -> Pass:
    return Pass(author_kind="rule", author="rules", rule=rule, rule_version=version, steps=steps, at=1.0)


def test_labels_count_once_their_pass_is_there(tmp_path: Path) -> None:
    path = tmp_path / "labels" / "00001.jsonl"
    assert read_labels(path).current() == []
    add_labels(path, [a_label(1), a_label(2)])
    assert read_labels(path).current() == []  # its writer died before the end
    add_labels(path, [a_label(2), a_label(3), a_pass()])
    assert [label.step for label in read_labels(path).current()] == [1, 2, 3]


def test_a_newer_pass_takes_back_what_it_does_not_say_again(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    add_labels(path, [a_label(1), a_label(2), a_pass(), a_label(1, "other"), a_pass("other")])
    add_labels(path, [a_label(2, version=2), a_label(5, version=2), a_pass(version=2)])
    labels = read_labels(path)
    assert [(label.step, label.rule, label.rule_version) for label in labels.current()] == [
        (1, "other", 1),
        (2, "r", 2),
        (5, "r", 2),
    ]
    old = labels.of_version("r", 1)
    assert old is not None
    assert [label.step for label in old] == [1, 2]
    assert labels.of_version("r", 3) is None
    assert is_done(labels, a_pass(version=2))
    assert not is_done(labels, a_pass(version=1))
    assert not is_done(labels, a_pass(version=2, steps=10))  # the episode went on


def test_a_persons_last_word_on_a_step_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    human = {"author_kind": "human", "author": "ada"}
    add_labels(path, [a_label(1, "", 0, **human), a_label(2, "", 0, **human)])
    add_labels(path, [a_label(1, "", 0, **human, verdict="optimal")])
    assert [(label.step, label.verdict) for label in read_labels(path).current()] == [(1, "optimal"), (2, "suboptimal")]


def test_torn_and_foreign_lines_are_passed_over_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    add_labels(path, [a_label(1), a_pass()])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type":"label","step"')
    add_labels(path, [a_label(4, "s"), a_pass("s")])
    labels = read_labels(path)
    assert labels.unreadable == 1
    assert [label.step for label in labels.current()] == [1, 4]
    assert path.read_bytes().startswith(whole)
    path.write_bytes(b"\xff\xfe\n[]\n\n" + whole)
    assert read_labels(path).unreadable == 2


def write(path: str, author: int) -> None:
    for step in range(1, 51):
        add_labels(Path(path), [a_label(step, "", 0, author_kind="human", author=f"p{author}", reason="x" * 200)])


def test_many_processes_add_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(str(path), number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    labels = read_labels(path)
    assert labels.unreadable == 0
    assert len(labels.current()) == 150


def test_where_labels_lie(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder in ("episodes/00002", "trajectories"):
        (run / folder).mkdir(parents=True)
    (run / "config.json").touch()
    assert labels_path(run / "trajectories" / "00001.h5") == run / "labels" / "00001.jsonl"
    assert labels_path(run / "episodes" / "00002" / "log.frames") == run / "labels" / "00002.jsonl"
    assert labels_path(tmp_path / "alone.h5") == tmp_path / "alone.h5.labels.jsonl"


def _add_with_little_room(path: Path, most_bytes: int, said: Any) -> None:
    """In a process of its own, whose files may not grow beyond ``most_bytes``."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write says EFBIG, as a full disk says ENOSPC
    try:
        add_labels(path, [a_label(step) for step in range(50)])
    except TrajectoryError as error:
        said.put(str(error))


def test_a_file_that_cannot_grow_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    add_labels(path, [a_label(1), a_pass()])
    before = path.read_bytes()
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    process = context.Process(target=_add_with_little_room, args=(path, len(before) + 1000, said))
    process.start()
    assert f"cannot write {path}" in said.get(timeout=60)
    process.join()
    assert path.read_bytes() == before
