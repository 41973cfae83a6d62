"""Configuration of when annotators are called: what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hpc.config.annotators import AnnotatorsConfig
from hpc.config.attention import AttentionConfig


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"claim_minutes": 0}, "claim_minutes is 0"),
        ({"escalation": {"minutes": 0}}, "minutes is 0"),
        ({"escalation": {"to": ["U1", " "]}}, "empty name"),
        ({"escalation": {"to": ["U1", "U1"]}}, "somebody twice"),
        ({"quiet": {"timezone": "Mars/Olympus"}}, "such as Europe/Berlin"),
        ({"quiet": {"timezone": "../etc/passwd"}}, "such as Europe/Berlin"),
        ({"quiet": {"windows": [{"start": "24:00"}]}}, "start is '24:00'"),
        ({"quiet": {"windows": [{"end": "7:00"}]}}, "end is '7:00'"),
        ({"quiet": {"windows": [{"days": ["monday"]}]}}, "monday"),
        ({"budget": {"alerts_per_hour": -1}}, "alerts_per_hour is -1"),
        ({"budget": {"queue": -1}}, "queue is -1"),
        ({"budget": {"digest_minutes": 0}}, "digest_minutes is 0"),
        ({"budget": {"digest_alerts": 0}}, "digest_alerts is 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(value: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(value, AttentionConfig)


def test_in_slack_people_are_called_by_their_ids() -> None:
    for target, fine in (("U0123", True), ("S0123", True), ("ada", False), ("C0123", False)):
        value = {"kind": "slack", "attention": {"escalation": {"to": [target]}}}
        if fine:
            msgspec.convert(value, AnnotatorsConfig)
        else:
            with pytest.raises(msgspec.ValidationError, match="user group"):
                msgspec.convert(value, AnnotatorsConfig)
    msgspec.convert({"kind": "console", "attention": {"escalation": {"to": ["ada"]}}}, AnnotatorsConfig)
