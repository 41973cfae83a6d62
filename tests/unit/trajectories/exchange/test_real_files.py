"""Real files of other tools, read into records that the store takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc.rundir import RunDir
from hpc.trajectories import codec, sealed
from hpc.trajectories.exchange import swe_agent
from hpc.trajectories.exchange.formats import WRITABLE
from hpc.trajectories.exchange.importing import import_files
from hpc.trajectories.exchange.source import sha256_of
from hpc.trajectories.records import ActionTaken, OutcomeReached
from tests.unit.trajectories.exchange.shared import SWE_AGENT
from tests.unit.trajectories.exchange.support import back, changed, stored, there

pytestmark = pytest.mark.shared_data
FILES = sorted(SWE_AGENT.glob("*.traj"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_swe_agent_file_can_be_stored(path: Path) -> None:
    records = swe_agent.read(path, sha256=sha256_of(path))
    value = json.loads(path.read_bytes())
    taken = [record for record in records if isinstance(record, ActionTaken)]
    answers = sum(message["role"] == "assistant" for message in value["history"])
    assert len(taken) == max(answers, len(value.get("trajectory", [])))
    assert not [each for each in taken if each.action.problem]
    assert isinstance(records[-1], OutcomeReached)
    assert records[-1].status == "finished"
    assert sealed.build([codec.decode(codec.encode(record)) for record in records])


@pytest.mark.parametrize("name", WRITABLE)
def test_real_trajectories_come_back_unchanged_from_every_format(name: str, tmp_path: Path) -> None:
    first = import_files(FILES, tmp_path / "first")
    assert (first.imported, first.failed) == (len(FILES), [])
    run = RunDir(tmp_path / "first")
    exported = there(run, name, tmp_path)
    assert exported.lost == {}  # they have no token ids to lose
    came, imported = back(name, tmp_path)
    assert (imported.imported, imported.failed) == (len(FILES), [])
    before, after = (
        sorted(stored(each), key=lambda records: codec.encode(records[1])) for each in (run, came)
    )  # ATIF files are named after episodes, so their order is another
    for one, other in zip(before, after, strict=True):
        assert changed(one, other) == set()
