"""Real files of other tools, read into records that the store takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc.trajectories import codec, sealed
from hpc.trajectories.exchange import swe_agent
from hpc.trajectories.exchange.source import sha256_of
from hpc.trajectories.records import ActionTaken, OutcomeReached
from tests.unit.trajectories.exchange.shared import SWE_AGENT

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
