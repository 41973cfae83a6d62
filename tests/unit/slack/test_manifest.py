"""The app's manifest asks for what the frontend uses, and for nothing else."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hpc.core.locate import data_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))
from local_slack.methods import METHODS

ROOT = Path(__file__).resolve().parents[3]

EVENT_SCOPES = {
    "app_home_opened": set(),
    "app_mention": {"app_mentions:read"},
    "message.channels": {"channels:history"},
    "message.groups": {"groups:history"},
    "reaction_added": {"reactions:read"},
    "reaction_removed": {"reactions:read"},
}
"""Scopes that Slack asks for with each event (docs.slack.dev/reference/events)."""


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data_dir("templates") / "slack" / "manifest.json").read_text())
    return found


def called() -> set[str]:
    """Methods of the Web API that the frontend's source calls through slack-sdk."""
    names = {name.replace(".", "_"): name for name in METHODS}
    found = set()
    for path in (ROOT / "hpc" / "router" / "annotators").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and "client" in ast.unparse(node.value).lower().rpartition(".")[2]:
                found |= {names[key] for key in names if key.lower() == node.attr.lower()}
    return found


def test_every_method_that_is_called_has_its_scope(manifest: dict[str, Any]) -> None:
    methods = called()
    assert {"chat.postMessage", "chat.update", "conversations.replies", "views.publish", "reactions.add"} <= methods
    scopes = {METHODS[name].scope for name in methods} - {None}
    scopes |= {scope.replace("channels:", "groups:") for scope in scopes if scope is not None}  # private channels
    events = manifest["settings"]["event_subscriptions"]["bot_events"]
    scopes |= {scope for event in events for scope in EVENT_SCOPES[event]}
    assert scopes == set(manifest["oauth_config"]["scopes"]["bot"])


def test_every_event_that_is_taken_is_asked_for(manifest: dict[str, Any]) -> None:
    taken = set()
    for node in ast.walk(ast.parse((ROOT / "hpc" / "router" / "annotators" / "slack.py").read_text())):
        if isinstance(node, ast.MatchValue):
            taken.add(ast.literal_eval(node.value))
    taken = (taken - {"message"}) | {"message.channels", "message.groups"}
    assert taken == set(manifest["settings"]["event_subscriptions"]["bot_events"]) == set(EVENT_SCOPES)


def test_the_rest_of_the_manifest(manifest: dict[str, Any]) -> None:
    assert manifest["settings"]["socket_mode_enabled"] is True
    assert manifest["settings"]["interactivity"]["is_enabled"] is True
    assert manifest["features"]["app_home"]["home_tab_enabled"] is True
    assert len(manifest["display_information"]["name"]) <= 35
    assert len(manifest["display_information"]["description"]) <= 140
