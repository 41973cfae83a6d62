"""Exporting and importing as a whole: atomic, repeatable, in constant memory; and the commands."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hpc.cli.traj import traj
from hpc.core.errors import ConfigError, HpcError, MissingExtra, UsageError
from hpc.rundir import RunDir
from hpc.trajectories.exchange import formats, parquet, selection
from hpc.trajectories.exchange.exporting import export
from hpc.trajectories.exchange.importing import import_files
from hpc.trajectories.reader import Trajectory, stored_episodes
from hpc.trajectories.records import EpisodeHeader
from tests.unit.trajectories import samples
from tests.unit.trajectories.exchange.support import out_of, store, stored, there

CHAT = {"messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "done"}]}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = samples.run_dir(tmp_path / "runs")
    store(made, 0, samples.episode(3))
    store(made, 1, samples.episode(12, index=1))
    return made


def hpc_traj(*arguments: object) -> Result:
    return CliRunner().invoke(traj, [str(argument) for argument in arguments], catch_exceptions=True)


def chats(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


# ---- export -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", formats.WRITABLE)
def test_what_is_there_is_not_replaced_unless_asked_for(name: str, run: RunDir, tmp_path: Path) -> None:
    there(run, name, tmp_path)
    out = out_of(name, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="exists"):
        there(run, name, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert there(run, name, tmp_path, overwrite=True).written == 2
    assert out.exists()


@pytest.mark.parametrize("name", ["jsonl", "parquet", "inspect"])
def test_a_failure_in_the_middle_leaves_nothing(
    name: str, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(HpcError, match="No space left"):
        there(run, name, tmp_path / "out", on_done=broken)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", formats.WRITABLE)
def test_a_dry_run_tells_the_same_and_writes_nothing(name: str, run: RunDir, tmp_path: Path) -> None:
    dry = there(run, name, tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    wet = there(run, name, tmp_path / "out")
    assert (dry.written, dry.steps, dry.lost) == (wet.written, wet.steps, wet.lost) == (2, 15, wet.lost)
    assert wet.bytes > 0


def test_damaged_trajectories_are_reported_and_the_rest_is_written(run: RunDir, tmp_path: Path) -> None:
    path = run.trajectory(0)
    path.write_bytes(path.read_bytes()[:1000])
    done = there(run, "jsonl", tmp_path)
    assert (done.written, [failure["source"] for failure in done.failed]) == (1, [str(path)])


def test_memory_does_not_grow_with_the_number_of_trajectories(run: RunDir, tmp_path: Path) -> None:
    store(run, 2, samples.episode(20, index=2, size=4000))
    export([(run, 2)], "jsonl", tmp_path / "warm.jsonl")
    peaks = []
    for count in (1, 8):
        tracemalloc.start()
        export([(run, 2)] * count, "jsonl", tmp_path / f"{count}.jsonl")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (tmp_path / "8.jsonl").stat().st_size == 8 * (tmp_path / "1.jsonl").stat().st_size
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize(
    ("texts", "indices"),
    [
        ((), [0, 1]),
        (("steps>3",), [1]),
        (("steps<=3", "status=finished"), [0]),
        (("task=minilab/*", "task!=minilab/1"), [0]),
        (("guidance >= 1",), [1]),
        (("score=40",), [0, 1]),
        (("split=train",), []),
    ],
)
def test_conditions_choose_trajectories(run: RunDir, texts: tuple[str, ...], indices: list[int]) -> None:
    wanted = selection.all_of(texts)
    chosen = []
    for index in stored_episodes(run):
        with Trajectory.open((run, index)) as trajectory:
            if wanted(trajectory.summary()):
                chosen.append(index)
    assert chosen == indices


@pytest.mark.parametrize("text", ["steps", "wind>3", "steps>many", "status>finished", ""])
def test_what_is_no_condition_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--where"):
        selection.condition(text)


# ---- import -----------------------------------------------------------------------------------


def test_repeating_an_import_takes_what_is_missing(tmp_path: Path) -> None:
    path = chats(tmp_path / "chats.jsonl", CHAT, "{", CHAT)
    first = import_files([path], tmp_path / "run")
    assert (first.imported, first.present, len(first.failed)) == (2, 0, 1)
    again = import_files([path], tmp_path / "run")
    assert (again.imported, again.present, len(again.failed)) == (0, 2, 1)
    other = import_files([chats(tmp_path / "more.jsonl", CHAT)], tmp_path / "run")
    assert other.indices == [2]
    headers = [records[0] for records in stored(RunDir(tmp_path / "run"))]
    entries = [header.origin.entry for header in headers if isinstance(header, EpisodeHeader) and header.origin]
    assert entries == ["line 1", "line 3", "line 1"]


def test_only_a_run_of_imports_takes_imports(run: RunDir, tmp_path: Path) -> None:
    path = chats(tmp_path / "chats.jsonl", CHAT)
    with pytest.raises(ConfigError, match="is a run of episodes"):
        import_files([path], run.root)
    with pytest.raises(ConfigError, match="holds other things"):
        import_files([path], tmp_path)
    assert stored_episodes(run) == [0, 1]


def test_a_dry_run_imports_nothing(tmp_path: Path) -> None:
    done = import_files([chats(tmp_path / "chats.jsonl", CHAT, CHAT)], tmp_path / "run", dry_run=True)
    assert (done.imported, done.failed) == (2, [])
    assert not (tmp_path / "run").exists()


def test_values_that_no_record_holds_are_refused(tmp_path: Path) -> None:
    rows = tmp_path / "chats.jsonl"
    from hpc.trajectories.exchange import chat

    row = chat.row_of(samples.episode(3))
    row["metadata"]["apollo_hpc"][1]["epoch"] = "first"
    done = import_files([chats(rows, row)], tmp_path / "run")
    (header,) = [records[0] for records in stored(RunDir(tmp_path / "run"))]
    assert isinstance(header, EpisodeHeader)
    assert header.origin is not None
    assert done.imported == 1  # as anybody's chat
    assert "Expected `int`, got `str`" in header.origin.lost[0]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("x.jsonl", b"", "is empty"),
        ("x.parquet", b"", "is empty"),
        ("x.parquet", b"PAR1 and no more", "is truncated"),
        ("x.parquet", b"hello world, hello", "is not a Parquet file"),
        ("x.traj", b"", "is empty"),
        ("x.json", b"{", "is truncated"),
        ("x.eval", b"", "is empty"),
        ("gone.jsonl", None, "gone.jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, file: str, content: bytes | None, words: str) -> None:
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    done = import_files([path], tmp_path / "run")
    ((failure,), imported) = (done.failed, done.imported)
    assert imported == 0
    assert words in failure["error"]
    assert str(path) in failure["error"]
    assert "\n" not in failure["error"]


def test_a_format_that_cannot_be_told_must_be_named(tmp_path: Path) -> None:
    path = chats(tmp_path / "chats.txt", CHAT)
    with pytest.raises(UsageError, match="cannot tell the format"):
        import_files([path], tmp_path / "run")
    assert import_files([path], tmp_path / "run", name="jsonl").imported == 1


def test_json_is_told_by_its_content(tmp_path: Path) -> None:
    atif = tmp_path / "a.json"
    formats.write_document(atif, samples.episode(3), bare=False)
    swe = tmp_path / "s.json"
    swe.write_text('{"history": []}')
    assert (formats.format_of(atif), formats.format_of(swe)) == ("atif", "swe-agent")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with (tmp_path / "x").open("wb") as file, pytest.raises(MissingExtra, match="pyarrow"):
        parquet.Writer(file)


def test_tools_and_messages_of_other_parquet_files_are_read(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as files

    call = {"id": "a", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "x", "tool_call_id": "a"},
    ]
    tools = [{"type": "function", "function": {"name": "ls", "description": None}}]
    rows = [{"messages": messages, "tools": tools, "other": 1}]
    files.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    files.write_table(pyarrow.Table.from_pylist([{"text": "a"}]), tmp_path / "y.parquet")
    done = import_files([tmp_path / "x.parquet", tmp_path / "y.parquet"], tmp_path / "run")
    assert "has no column `messages`, but text" in done.failed[0]["error"]
    header, taken, observed, _ = stored(RunDir(tmp_path / "run"))[0]
    assert isinstance(header, EpisodeHeader)
    assert header.tools == [{"type": "function", "function": {"name": "ls"}}]
    assert header.messages == [{"role": "user", "content": "Go."}]
    assert taken.__struct_config__.tag == "action"
    assert observed.__struct_config__.tag == "observation"


# ---- the commands -----------------------------------------------------------------------------


def test_export_prints_a_summary_and_the_losses(run: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "chats.jsonl"
    result = hpc_traj(
        "export", "demo", "--runs", run.root.parent, "--format", "jsonl", "--out", out, "--where", "steps>3"
    )
    assert result.exit_code == 0, result.output
    assert f"wrote 1 trajectories, 12 steps to {out}" in result.stdout
    assert "note: 1 left out by --where" in result.stderr
    assert "note: lost in 12: token ids and log-probabilities" in result.stderr
    assert len(out.read_text().splitlines()) == 1


def test_export_of_one_episode_and_of_a_file(run: RunDir, tmp_path: Path) -> None:
    root = run.root.parent
    one = hpc_traj("export", "demo/1", "--runs", root, "--format", "atif", "--out", tmp_path / "t.json")
    assert one.exit_code == 0, one.output
    assert json.loads((tmp_path / "t.json").read_text())["session_id"] == "demo-00001"
    file = hpc_traj("export", run.trajectory(0), "--format", "atif", "--out", tmp_path / "t", "--json")
    assert json.loads(file.stdout)["written"] == 1
    both = hpc_traj("export", "demo", "--runs", root, "--format", "atif", "--out", tmp_path / "both.json")
    assert isinstance(both.exception, UsageError)


def test_exit_codes_tell_some_from_none(run: RunDir, tmp_path: Path) -> None:
    path = run.trajectory(0)
    path.write_bytes(path.read_bytes()[:1000])
    some = hpc_traj("export", "demo", "--runs", run.root.parent, "--format", "jsonl", "--out", tmp_path / "a.jsonl")
    assert (some.exit_code, "is damaged" in some.stderr) == (3, True)
    none = hpc_traj("export", path, "--format", "jsonl", "--out", tmp_path / "b.jsonl")
    assert none.exit_code == 1
    assert not (tmp_path / "b.jsonl").exists()


def test_import_prints_what_was_lost_and_what_failed(tmp_path: Path) -> None:
    good, bad = chats(tmp_path / "chats.jsonl", CHAT, "{"), chats(tmp_path / "bad.jsonl", "[]")
    some = hpc_traj("import", good, bad, "--out", tmp_path / "run")
    assert some.exit_code == 3, some.output
    assert f"imported 1 trajectories, 1 steps into {tmp_path / 'run'} (1 jsonl)" in some.stdout
    assert f"error: {good}:2 is truncated" in some.stderr
    assert f"error: {bad}:1 has no list of `messages`" in some.stderr
    assert "note: lost in 1: no token ids" in some.stderr
    none = hpc_traj("import", bad, "--out", tmp_path / "none", "--json")
    assert (none.exit_code, json.loads(none.stdout)["imported"]) == (1, 0)


def test_imported_trajectories_are_listed_and_shown(tmp_path: Path) -> None:
    hpc_traj("import", chats(tmp_path / "chats.jsonl", CHAT), "--out", tmp_path / "runs" / "got")
    listed = hpc_traj("ls", "got", "--runs", tmp_path / "runs", "--json")
    (row,) = json.loads(listed.stdout)
    assert (row["status"], row["steps"]) == ("finished", 1)
    shown = hpc_traj("show", "got/0", "--runs", tmp_path / "runs")
    assert shown.exit_code == 0, shown.output
    assert "done" in shown.stdout


def test_an_import_that_the_disk_refuses_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: object) -> None:
        raise OSError(28, "No space left on device")

    import_files([chats(tmp_path / "other.jsonl", "{")], tmp_path / "run")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(HpcError, match="No space left"):
        import_files([chats(tmp_path / "chats.jsonl", CHAT)], tmp_path / "run")
    monkeypatch.undo()
    assert list((tmp_path / "run" / "trajectories").iterdir()) == []
    assert import_files([tmp_path / "chats.jsonl"], tmp_path / "run").indices == [0]


def test_header_of_an_import_of_an_import_keeps_the_first_source(run: RunDir, tmp_path: Path) -> None:
    there(run, "jsonl", tmp_path)
    import_files([tmp_path / "chats.jsonl"], tmp_path / "second")
    second = RunDir(tmp_path / "second")
    there(second, "atif", tmp_path)
    import_files(sorted((tmp_path / "atif").glob("*.json")), tmp_path / "third")
    header = stored(RunDir(tmp_path / "third"))[0][0]
    assert isinstance(header, EpisodeHeader)
    assert header.origin is not None
    assert header.origin.format == "atif"
    assert header.origin.extra["first"]["format"] == "jsonl"
