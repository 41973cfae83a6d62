"""Messages from the templates fit Slack's rules whatever an agent wrote."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpc.core.locate import data_dir
from hpc.router.annotators.slack_blocks import (
    CLAIM,
    CONTROLS,
    FINE,
    GUIDE,
    MAX_CHARACTERS,
    RELEASE,
    Blocks,
    Message,
    characters,
    metadata,
)
from hpc.router.annotators.slack_lists import HOME_EPISODES, Lists
from hpc.router.desk import AlertCard, EpisodeCard, GuidanceCard, Post
from hpc.wire.messages import StepBrief

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))
from local_slack.blockkit import characters as counted
from local_slack.blockkit import check_blocks, check_view

BLOCKS = Blocks()
LISTS = Lists("https://team.slack.com/")
THREAD = "C0ALERTS:17.000001"


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


def assert_harmless(message: Message, *allowed: str) -> None:
    """Slack takes it, and nothing but what is ``allowed`` mentions or links anything."""
    assert check_blocks(message.blocks) == []
    assert counted(message.blocks) == characters(message.blocks) <= MAX_CHARACTERS
    assert message.text
    for text in [message.text, *obeyed(message.blocks)]:
        assert re.sub("|".join([r"<!date\^\d+\^[^<>|]+\|[^<>|]+>", *map(re.escape, allowed)]), "", text).count("<") == 0


def obeyed(value: Any) -> list[str]:
    """Texts in which Slack looks for mentions and links: all but those of rich_text."""
    if isinstance(value, dict):
        if value.get("type") == "rich_text":
            assert not any(kind in json.dumps(value) for kind in ('"link"', '"user"', '"broadcast"', '"usergroup"'))
            return []
        own = [value["text"]] if isinstance(value.get("text"), str) else []
        return own + [text for item in value.values() for text in obeyed(item)]
    return [text for item in value for text in obeyed(item)] if isinstance(value, list) else []


@settings(max_examples=25, deadline=None)
@given(hostile, hostile, st.lists(hostile, max_size=6), st.sampled_from(["open", "answered", "false_alarm", "expired"]))
def test_any_alert_is_taken_by_slack(reason: str, action: str, texts: list[str], state: str) -> None:
    evidence = [StepBrief(step=n, action=action, observation=text, is_error=n % 2 == 0) for n, text in enumerate(texts)]
    card = alert(reason=reason, evidence=evidence, detector=action, state=state, earlier_guidance=texts)
    people: dict[str, Any] = {
        "owner": "U0ALICE",
        "claimed_until": 1e9,
        "escalated_to": ["S0EXPERTS"],
        "closed_by": reason,
    }
    for shown in (card, msgspec.structs.replace(card, count=3, last_step=9, task=action, **people)):
        assert_harmless(BLOCKS.alert(shown), "<@U0ALICE>", "<!subteam^S0EXPERTS>")
    assert_harmless(BLOCKS.escalation(card, "U0BOB"), "<@U0BOB>")
    assert check_view(BLOCKS.guide(card)) == []


@settings(max_examples=15, deadline=None)
@example("0" * 1000, "&" * 60, 38)
@given(hostile.map(lambda text: text[:1000]), hostile, st.integers(0, 120))  # redaction takes 2 us a character
def test_any_list_is_taken_by_slack(text: str, name: str, count: int) -> None:
    link = "<https://team.slack.com/archives/C0ALERTS/p17000001|"
    cards = [
        episode(episode=f"{name}{n}"[-50:], task=text, index=n, thread=THREAD if n % 2 else None) for n in range(count)
    ]
    assert check_view(LISTS.home(cards), "home") == []
    assert len(LISTS.home(cards)["blocks"]) <= HOME_EPISODES + 4
    message = LISTS.status(cards)
    assert check_blocks(message.blocks) == []
    held = [
        alert(reason=text, detector=name[:9], alert=f"al-{n}", episode=f"e{n}", held="budget") for n in range(count)
    ]
    digest = LISTS.digest(held, {f"e{n}": THREAD for n in range(count)})
    assert check_blocks(digest.blocks) == []
    assert characters(digest.blocks) <= MAX_CHARACTERS
    for words in obeyed([message.blocks, digest.blocks, LISTS.home(cards)["blocks"]]):
        assert re.sub(re.escape(link) + r"[^<>|]*>|<!date[^<>]*>", "", words).count("<") == 0


def test_a_list_leads_to_the_threads_and_shows_what_is_open_first() -> None:
    cards = [
        episode(episode="a", index=0, open_alerts=0, drift=0.9),
        episode(episode="b", index=1, open_alerts=2, drift=0.1, thread=THREAD),
        episode(episode="c", index=2, state="finished"),
    ]
    home = LISTS.home(cards)
    rows = [block["text"]["text"] for block in home["blocks"] if block["type"] == "section"]
    assert rows[0].startswith("<https://team.slack.com/archives/C0ALERTS/p17000001|b>")
    assert "2 open alerts" in rows[0]
    assert rows[1].startswith("a minilab: running")
    assert len(rows) == 2
    assert home["blocks"][0]["text"]["text"] == "2 live episodes, 2 open alerts"
    assert "1 of 3 have ended" in home["blocks"][-1]["elements"][0]["text"]


def test_an_alert_says_whose_it_is_and_how_often_it_came() -> None:
    card = alert(owner="U0ALICE", claimed_until=1e9, count=3, last_step=12, escalated_to=["S0EXPERTS"])
    shown = json.dumps(BLOCKS.alert(card).blocks)
    assert "Claimed by <@U0ALICE> until <!date^1000000000^" in shown
    assert "steps: 7 to 12" in shown
    assert "raised 3 times" in shown
    assert "Called: <!subteam^S0EXPERTS>" in shown
    assert _buttons(BLOCKS.alert(card).blocks) == [GUIDE, RELEASE, FINE, *CONTROLS]
    closed = json.dumps(BLOCKS.alert(alert(state="false_alarm", closed_by="U0BOB")).blocks)
    assert "This alert is closed: false alarm by <@U0BOB>" in closed
    assert "owner: <@U0ALICE>, bob" in json.dumps(BLOCKS.board(episode(), ["U0ALICE", "bob"]).blocks)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("delivered", "Delivered to the agent"),
        ("applied", "Applied at step 4"),
        ("too_late", "Too late: "),
        ("expired", "Expired: "),
        ("superseded", "Superseded: "),
    ],
)
def test_each_receipt_says_what_became_of_a_reply(status: str, sentence: str) -> None:
    message = BLOCKS.receipt(guidance(), status)
    assert message.blocks[0]["elements"][0]["text"].startswith(sentence)
    assert message.text.startswith(sentence)


@settings(max_examples=20, deadline=None)
@given(hostile, hostile)
def test_any_board_and_receipt_are_taken_by_slack(task: str, text: str) -> None:
    for state in ("running", "paused", "finished", "failed"):
        assert check_blocks(BLOCKS.board(episode(task=task, state=state, score=12.5)).blocks) == []
    for status in ("delivered", "applied", "too_late", "expired", "superseded"):
        assert_harmless(BLOCKS.receipt(guidance(annotator=task, text=text), status))


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
        ("running", [GUIDE, "apollo_pause", "apollo_stop"]),
        ("paused", [GUIDE, "apollo_resume", "apollo_stop"]),
        ("finished", []),
        ("stopped", []),
    ],
)
def test_the_board_offers_what_can_be_done(state: str, buttons: list[str]) -> None:
    assert _buttons(BLOCKS.board(episode(state=state)).blocks) == buttons


def test_an_open_alert_offers_all_and_a_closed_one_nothing() -> None:
    assert _buttons(BLOCKS.alert(alert()).blocks) == [GUIDE, CLAIM, FINE, *CONTROLS]
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
