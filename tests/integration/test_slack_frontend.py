"""The Slack frontend, with the unmodified slack-sdk, against the local Slack server as a process."""

from __future__ import annotations

from pathlib import Path

from .slack_fixtures import EPISODE, FakeDesk, connected, frontend, local_slack, until


async def test_alert_is_shown_and_a_thread_reply_reaches_the_desk(tmp_path: Path) -> None:
    desk = FakeDesk()
    desk.open_episode()
    desk.raise_alert()
    async with local_slack(tmp_path, "--no-limits") as server, frontend(server, desk):
        await connected(server)
        await until(lambda: "alert:al-1" in desk.published)
        ts = await server.say("alice", "for cobalt set anneal to 450C & see <here>", desk.thread_ts())
        await until(lambda: desk.replies)
        reply = desk.replies[0]
        assert reply.key == f"{server.ready['channel']}:{ts}"
        assert (reply.episode, reply.annotator) == (EPISODE, "U0ALICE")
        assert reply.text == "for cobalt set anneal to 450C & see <here>"
        assert reply.sent_at == float(ts)
