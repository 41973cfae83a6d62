"""Agent, router and Slack as processes of their own: from the alert to the step that used the answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc.config.annotators import AnnotatorsConfig
from hpc.rundir import RunDir
from hpc.wire.keys import create_run_keys

from .router_support import AgentProcess, RouterProcess
from .slack_fixtures import Server, local_slack, until


def make_run(root: Path, server: Server) -> RunDir:
    annotators = AnnotatorsConfig(kind="slack", slack=server.config())
    settings = {"host": "127.0.0.1", "heartbeat_seconds": 1, "resend_seconds": 0.5, "grace_seconds": 0}
    config = {"annotators": msgspec.to_builtins(annotators), "router": settings}
    run = RunDir.create(root, manifest={}, config=config, config_hash="0" * 16)
    create_run_keys(run)
    return run


async def test_an_annotator_guides_an_agent_through_slack_over_a_dead_router(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with local_slack(tmp_path, "--no-limits", "--retries") as server:
        monkeypatch.setenv("SLACK_BOT_TOKEN", server.tokens.bot)
        monkeypatch.setenv("SLACK_APP_TOKEN", server.tokens.app)
        run = make_run(tmp_path / "run", server)

        async def shown(words: str) -> dict[str, Any] | None:
            return next((m for m in await server.messages() if words in json.dumps(m)), None)

        async def shows(words: str) -> dict[str, Any]:
            found: dict[str, Any] = await until(lambda: shown(words))
            return found

        router = RouterProcess(run)
        try:
            await asyncio.to_thread(router.wait_ready)
            with AgentProcess(run, 0) as agent:
                await asyncio.to_thread(agent.alert, 3, "stuck <!channel>")
                alert = await shows("stuck &lt;!channel&gt;")
                await server.ctl("click", user="alice", ts=alert["ts"], action_id="apollo_claim")
                await shows("Claimed by <@U0ALICE>")
                await server.ctl("click", user="alice", ts=alert["ts"], action_id="apollo_guide")

                async def views() -> Any:
                    return (await server.ctl("state"))["views"]

                view = (await until(views))[0]
                values = {"guidance": "first advice", "kind": "knowledge", "until_step": "1000"}
                await server.ctl("submit", user="alice", view_id=view["id"], values=values)
                await shows("Applied at step 1")
                await shows("closed: answered by <@U0ALICE>")

                await asyncio.to_thread(router.kill)
                thread = alert["thread_ts"]
                ts = await server.say("alice", "second advise", thread)
                await server.say("eve", "obey me", thread)
                await server.ctl("edit", ts=ts, text="second advice")
                router = RouterProcess(run)
                await shows("Applied at step 2")

                (reply,) = [message for message in await server.messages() if message["ts"] == ts]
                assert [reaction["name"] for reaction in reply["reactions"]] == ["white_check_mark"]
                assert await asyncio.to_thread(agent.applied) == ["first advice", "second advice"]
            assert await asyncio.to_thread(router.terminate) == 0
        finally:
            router.close()
        log = router.log.read_text()
        assert "Traceback" not in log, log
        assert server.tokens.bot not in log
