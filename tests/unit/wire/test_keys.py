from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpc.core.errors import HpcError
from hpc.rundir import RunDir
from hpc.wire.keys import (
    create_run_keys,
    episode_token,
    load_agent_keys,
    load_inbox_keys,
    load_router_keys,
    load_token_secret,
)


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    create_run_keys(run)
    assert stat.S_IMODE(run.keys.stat().st_mode) == 0o700
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in run.keys.iterdir()}
    assert names == dict.fromkeys(("router.json", "agent.json", "inbox.json", "token.json"), 0o600)


def test_the_pairs_differ_and_are_not_shown(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    create_run_keys(run)
    pairs = [load_router_keys(run), load_agent_keys(run), load_inbox_keys(run)]
    assert len({pair.public for pair in pairs} | {pair.secret for pair in pairs}) == 6
    assert all(len(pair.public) == len(pair.secret) == 40 for pair in pairs)
    assert pairs[0].secret not in repr(pairs[0])


def test_keys_are_made_once_even_by_launches_at_the_same_time(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: create_run_keys(run), range(8)))
    first = load_router_keys(run)
    create_run_keys(run)
    assert load_router_keys(run) == first
    assert [path.name for path in run.root.iterdir()] == ["keys"]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    create_run_keys(run)
    (run.keys / "agent.json").chmod(0o640)
    with pytest.raises(HpcError, match="can be read by others") as error:
        load_agent_keys(run)
    assert error.value.hint.startswith("chmod 600 ")


@pytest.mark.parametrize("content", ["", "[]", '{"public": "x"}'])
def test_a_damaged_key_file_is_named(tmp_path: Path, content: str) -> None:
    run = RunDir(tmp_path / "run")
    create_run_keys(run)
    (run.keys / "router.json").write_text(content)
    with pytest.raises(HpcError, match=r"router\.json is not a key file"):
        load_router_keys(run)


def test_a_run_without_keys_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(HpcError, match="no such key") as error:
        load_token_secret(RunDir(tmp_path / "run"))
    assert "launch" in error.value.hint


def test_a_token_fits_one_episode_of_one_run() -> None:
    token = episode_token("s1", "r-00000")
    assert token == episode_token("s1", "r-00000")
    assert len({token, episode_token("s1", "r-00001"), episode_token("s2", "r-00000")}) == 3
    # the value of docs/protocol.md §2, computed elsewhere: echo -n r-00000 | openssl dgst -sha256 -hmac s1
    assert token == "8c6eaf93b9c512da4b8bc4f270dcee52032783ce39748dfd0f4a60d574b0e0a8"
