from __future__ import annotations

import msgspec
import pytest

from hpc.config.drift import DriftConfig
from hpc.drift import DRIFT_DETECTORS


@pytest.mark.parametrize(
    "value",
    [
        {"repetition": {"times": 1}},
        {"repetition": {"times": 5, "window": 4}},
        {"error_streak": {"errors": 0}},
        {"monitoring": {"polls": 1}},
        {"malformed": {"answers": 0}},
        {"no_progress": {"steps": 0}},
        {"failure_streak": {"attempts": 1}},
        {"failure_streak": {"pattern": "("}},
        {"budget_burn": {"lead": 0}},
        {"budget_burn": {"weight": 1.5}},
        {"logprob": {"baseline": 1}},
        {"logprob": {"deviations": 0}},
        {"judge": {"every": 0}},
        {"judge": {"confidence": 1}},
        {"judge": {"url": "http://host:1/v1"}},
        {"judge": {"model": "m"}},
        {"judge": {"api_key_env": "KEY"}},
        {"judge": {"wait_seconds": 0}},
        {"ask": {"every": 0}},
        {"milestone": {"marks": [0.5, 1.5]}},
        {"combined_at": 0},
        {"release": 0.6},
        {"repeat_after": 0},
        {"cooldown": -1},
    ],
    ids=str,
)
def test_a_value_without_a_meaning_is_refused_by_name(value: dict[str, object]) -> None:
    ((name, inner),) = value.items()
    field = next(iter(inner)) if isinstance(inner, dict) else name
    if inner == {"times": 5, "window": 4}:
        field = "window"
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert(value, DriftConfig)


@pytest.mark.parametrize("url", ["http://host:1", "ftp://host/v1", "http://me:secret@host/v1"])
def test_a_judge_url_without_a_meaning_is_refused_and_never_repeated(url: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="no user or password") as caught:
        msgspec.convert({"judge": {"url": url, "model": "m"}}, DriftConfig)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", DRIFT_DETECTORS)
def test_every_detector_has_a_section_with_a_switch_and_a_weight(name: str) -> None:
    section = getattr(DriftConfig(), name)
    assert section.enabled is (name not in ("logprob", "judge")) and 0 < section.weight <= 1
