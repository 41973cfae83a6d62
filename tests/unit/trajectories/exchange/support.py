"""Episodes with everything that a record can say, and what changed on the way there and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from hpc.rundir import RunDir
from hpc.trajectories.exchange.exporting import Exported, export
from hpc.trajectories.exchange.importing import Imported, import_files
from hpc.trajectories.reader import Trajectory, stored_episodes
from hpc.trajectories.records import Action, ActionTaken, EpisodeHeader, GuidanceApplied, Observed, Record
from hpc.trajectories.writer import TrajectoryWriter
from tests.unit.trajectories import samples

PLACE = {"run", "index", "origin"}
"""Fields of the header that say where a trajectory is stored and was imported from."""


def odd_episode(index: int = 0) -> list[Record]:
    """An episode with the odd things that models and people do."""
    records: list[Record] = []
    for record in samples.episode(13, index=index):
        if isinstance(record, EpisodeHeader):
            demo = {"id": "d1", "type": "function", "function": {"name": "think", "arguments": "{}"}}
            told = {"role": "assistant", "content": "", "tool_calls": [demo]}
            shown = {"role": "tool", "tool_call_id": "d1", "content": "thought"}
            parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:x"}}]
            picture = {"role": "user", "content": parts, "name": "ada"}
            record = replace(record, messages=[*record.messages, told, shown, picture])
        elif isinstance(record, ActionTaken):
            record = _odd_action(record)
        elif isinstance(record, GuidanceApplied):
            record = replace(record, text="stop </real_user> <b>now</b> \u2028 ✨", alert_id=None)
        elif isinstance(record, Observed) and record.step == 4:
            record = replace(record, observation=replace(record.observation, text="", info={"nan": float("inf")}))
        records.append(record)
    return records


def _odd_action(record: ActionTaken) -> ActionTaken:
    def call(arguments: Any, **more: Any) -> dict[str, Any]:
        return {"id": f"c{record.step}", "type": "function", "function": {"name": "f", "arguments": arguments}, **more}

    calls: dict[int, list[dict[str, Any]]] = {
        1: [],  # no tool call at all
        2: [call('{"x": 1'), call("{}")],  # broken arguments, and two calls
        3: [call('{"x":  [1,2]}')],  # written as json.dumps would not
        5: [call({"x": 1}, index=0)],  # arguments as an object, a key of vLLM's
    }
    if record.step not in calls:
        return record
    name = "null" if record.step < 3 else "f"
    action = Action(name=name, arguments={"x": [1, 2]} if name == "f" else {}, call_id=f"c{record.step}", problem="")
    return replace(record, tool_calls=calls[record.step], action=action, finish_reason="")


def store(run: RunDir, index: int, records: Sequence[Record], *, seal: bool = True) -> None:
    """Write records as an episode of a run would."""
    header = records[0]
    assert isinstance(header, EpisodeHeader)
    header = replace(header, run=run.name, index=index, episode_id=f"{run.name}-{index:05d}")
    with TrajectoryWriter.open(run, index) as writer:
        writer.append(header, *records[1:])
        if seal:
            writer.seal()


def stored(run: RunDir) -> list[list[Record]]:
    """All trajectories of a run."""
    found = []
    for index in stored_episodes(run):
        with Trajectory.open((run, index)) as trajectory:
            found.append(list(trajectory.records()))
    return found


def out_of(name: str, folder: Path) -> Path:
    return folder / {"atif": "atif", "inspect": "log.eval", "jsonl": "chats.jsonl", "parquet": "chats.parquet"}[name]


def there(run: RunDir, name: str, folder: Path, **options: Any) -> Exported:
    """Export all of a run."""
    return export([(run, index) for index in stored_episodes(run)], name, out_of(name, folder), **options)


def back(name: str, folder: Path, run_name: str = "back") -> tuple[RunDir, Imported]:
    """Import what `there` wrote, into a new run."""
    out = out_of(name, folder)
    done = import_files(sorted(out.glob("*.json")) if out.is_dir() else [out], folder / run_name)
    return RunDir.open(folder / run_name), done


def changed(before: Sequence[Record], after: Sequence[Record]) -> set[str]:
    """The fields, as ``kind.field``, in which two trajectories differ, but for where they are stored."""
    assert [type(record) for record in before] == [type(record) for record in after]
    found: set[str] = set()
    for one, other in zip(before, after, strict=True):
        old, new = msgspec.to_builtins(one), msgspec.to_builtins(other)
        kind = old["type"]
        found |= {f"{kind}.{k}" for k in old if old[k] != new[k] and not (kind == "header" and k in PLACE)}
    return found
