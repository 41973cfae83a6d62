"""The verdict of a fault campaign sees every kind of wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.campaign_verdict import WRONGS, Written, judge

WRITTEN = {"e0": [Written("a0 one"), Written("a1 new", "a1 old"), Written("a2 two")], "e1": [Written("b0 one")]}
RIGHT = {"e0": ["a0 one", "a1 old", "a1 new", "a2 two"], "e1": ["b0 one"]}


def verdict(**texts: list[str]) -> dict[str, int]:
    applied: dict[str, list[dict[str, Any]]] = {
        episode: [{"text": text, "alert": text.split()[0]} for text in found]
        for episode, found in {**RIGHT, **texts}.items()
    }
    return dict(judge(WRITTEN, applied))


@pytest.mark.parametrize("found", [RIGHT["e0"], ["a0 one", "a1 new", "a2 two"]])
def test_nothing_is_wrong_with_or_without_the_draft(found: list[str]) -> None:
    assert verdict(e0=found) == dict.fromkeys(WRONGS, 0)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ("lost", ["a0 one", "a1 new"]),
        ("lost", ["a0 one", "a1 old", "a2 two"]),
        ("doubled", ["a0 one", "a1 new", "a1 new", "a2 two"]),
        ("misrouted", ["a0 one", "b0 one", "a1 new", "a2 two"]),
        ("disordered", ["a1 new", "a0 one", "a2 two"]),
        ("disordered", ["a0 one", "a1 new", "a1 old", "a2 two"]),
    ],
)
def test_each_wrong_is_counted(wrong: str, found: list[str]) -> None:
    assert verdict(e0=found) == dict.fromkeys(WRONGS, 0) | {wrong: 1}


def test_guidance_of_another_alert_is_misrouted() -> None:
    assert judge({"e": [Written("a0 one")]}, {"e": [{"text": "a0 one", "alert": "a1"}]})["misrouted"] == 1
