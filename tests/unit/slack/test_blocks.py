"""Messages from the templates fit Slack's rules whatever an agent wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc.core.locate import data_dir
from hpc.router.annotators.slack_blocks import CONTROLS, FINE, GUIDE, MAX_CHARACTERS, Blocks, characters, metadata
from hpc.router.desk import AlertCard, EpisodeCard, GuidanceCard, Post
from hpc.wire.messages import StepBrief

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))
from local_slack.blockkit import characters as counted
from local_slack.blockkit import check_blocks, check_view

BLOCKS = Blocks()


def episode(**fields: Any) -> EpisodeCard:
    values: dict[str, Any] = {"episode": "demo-00001", "run": "demo", "index": 1, "task": "minilab", "state": "running"}
    values |= {"step": 3, "drift": 0.25, "score": None, "open_alerts": 1, "seen_at": 0.0}
    return EpisodeCard(**(values | fields))


def alert(**fields: Any) -> AlertCard:
    values: dict[str, Any] = {"alert": "al-1", "episode": "demo-00001", "run": "demo", "task": "minilab", "step": 7}
    values |= {"detector": "stuck", "score": 0.5, "reason": "why", "priority": "drift", "evidence": [], "sent_at": 0.0}
    return AlertCard(**(values | {"state": "open"} | fields))


def guidance(**fields: Any) -> GuidanceCard:
    values: dict[str, Any] = {"guidance": "gu-1", "key": "C01:1.2", "episode": "demo-00001", "alert": None}
    values |= {"annotator": "U0ALICE", "text": "try 450C", "sent_at": 0.0, "delivered_at": None, "applied_at": None}
    return GuidanceCard(**(values | {"applied_step": 4, "state": "applied"} | fields))


hostile = st.one_of(
    st.text(max_size=200),
    st.text(alphabet=st.sampled_from('<>&"\\{}%`\n'), max_size=6000),
    st.sampled_from(["", " ", "<!channel>", "{{ 7 * 7 }}", '"}]}', "&" * 20_000]),
)


@settings(max_examples=60, deadline=None)
@given(hostile, hostile, st.lists(hostile, max_size=9), st.sampled_from(["open", "answered", "false_alarm", "expired"]))
def test_any_alert_is_taken_by_slack(reason: str, action: str, texts: list[str], state: str) -> None:
    evidence = [StepBrief(step=n, action=action, observation=text, is_error=n % 2 == 0) for n, text in enumerate(texts)]
    card = alert(reason=reason, evidence=evidence, detector=action, state=state, earlier_guidance=texts)
    message = BLOCKS.alert(card)
    assert check_blocks(message.blocks) == []
    assert counted(message.blocks) == characters(message.blocks) <= MAX_CHARACTERS
    assert message.text
    assert check_view(BLOCKS.guide(card)) == []


@settings(max_examples=40, deadline=None)
@given(hostile, hostile)
def test_any_board_and_receipt_are_taken_by_slack(task: str, text: str) -> None:
    for state in ("running", "paused", "finished", "failed"):
        assert check_blocks(BLOCKS.board(episode(task=task, state=state, score=12.5)).blocks) == []
    for status in ("delivered", "applied", "too_late"):
        card = guidance(annotator=task, text=text)
        assert check_blocks(BLOCKS.receipt(card, status).blocks) == []


def test_template_syntax_in_text_is_only_text() -> None:
    message = BLOCKS.alert(alert(reason="{{ 7 * 7 }}{% for %}"))
    assert message.blocks[1]["text"]["text"] == "{{ 7 * 7 }}{% for %}"


def test_mentions_become_words_except_our_own() -> None:
    message = BLOCKS.receipt(guidance(text="<!channel>"), "applied")
    elements = message.blocks[0]["elements"]
    assert [element["text"] for element in elements] == ["Applied at step 4", "<@U0ALICE>", "&lt;!channel&gt;"]
    assert "<" not in message.text
    other = BLOCKS.receipt(guidance(annotator="cli:<!here>"), "applied")
    assert other.blocks[0]["elements"][1]["text"] == "cli:&lt;!here&gt;"


def test_evidence_is_shown_as_it_is_and_the_newest_survives() -> None:
    evidence = [StepBrief(step=n, action=f"action {n}", observation=f"{n} < {'x' * 6000}") for n in range(1, 20)]
    blocks = Blocks(shown_steps=12).alert(alert(evidence=evidence)).blocks
    shown = json.dumps(blocks)
    assert "action 19" in shown
    assert 'action 1"' not in shown
    assert "19 < x" in shown
    assert characters(blocks) <= MAX_CHARACTERS


def test_secrets_do_not_leave() -> None:
    secret = "hf_" + "a" * 34
    brief = StepBrief(step=1, action=f"export HF_TOKEN={secret}", observation=secret)
    message = BLOCKS.alert(alert(reason=secret, evidence=[brief], earlier_guidance=[secret]))
    assert secret not in json.dumps([message.text, message.blocks])


@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        ("running", ["apollo_pause", "apollo_stop"]),
        ("paused", ["apollo_resume", "apollo_stop"]),
        ("finished", []),
        ("stopped", []),
    ],
)
def test_the_board_offers_what_can_be_done(state: str, buttons: list[str]) -> None:
    assert _buttons(BLOCKS.board(episode(state=state)).blocks) == buttons


def test_an_open_alert_offers_all_and_a_closed_one_nothing() -> None:
    assert _buttons(BLOCKS.alert(alert()).blocks) == [GUIDE, FINE, *CONTROLS]
    assert _buttons(BLOCKS.alert(alert(state="false_alarm")).blocks) == []


def _buttons(blocks: list[dict[str, Any]]) -> list[str]:
    return [element["action_id"] for block in blocks if block["type"] == "actions" for element in block["elements"]]


def test_posts_are_found_again_by_their_metadata() -> None:
    post = Post(post="po-1", kind="alert", episode="demo-00001", priority=1, alert="al-1")
    assert metadata(post) == {
        "event_type": "apollo_post",
        "event_payload": {"post_id": "po-1", "alert_id": "al-1", "episode": "demo-00001"},
    }


def test_every_value_of_a_template_is_inserted_by_the_renderer() -> None:
    """No template marks agent text as a mention or writes a placeholder inside a JSON string."""
    for path in (data_dir("templates") / "slack").glob("*.j2"):
        for line in path.read_text().splitlines():
            assert '"{{' not in line, f"{path.name}: {line}"


def test_the_manifest_asks_for_what_is_used() -> None:
    manifest = json.loads((data_dir("templates") / "slack" / "manifest.json").read_text())
    assert manifest["settings"]["socket_mode_enabled"] is True
    assert manifest["settings"]["interactivity"]["is_enabled"] is True
    assert set(manifest["settings"]["event_subscriptions"]["bot_events"]) == {"message.channels", "message.groups"}
    assert len(manifest["display_information"]["name"]) <= 35
    assert len(manifest["display_information"]["description"]) <= 140
