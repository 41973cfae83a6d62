"""The gym's configuration: shipped options are valid, mistakes are explained."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hpc.config import compose, list_configs
from hpc.config.gym import GymConfig
from hpc.core.errors import ConfigError
from hpc.gym.actions import tool_schemas


@pytest.mark.parametrize("option", list_configs()["gym"])
def test_every_shipped_option_fits(option: str) -> None:
    config: GymConfig = compose("episodes", [f"gym={option}"]).gym

    assert len(tool_schemas(config.actions)) == len(config.actions)
    assert {"eval", "finish"} <= set(config.actions)


def test_local_is_what_the_struct_says() -> None:
    assert compose("episodes", ["gym=local"]).gym == GymConfig()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"actions": []}, "actions is empty"),
        ({"actions": ["think", "think"]}, "twice"),
        ({"actions": ["fly"]}, "fly"),
        ({"computer_pool": []}, "computer_pool is empty"),
        ({"computer_pool": [{"computer_ip": "10.0.0.7"}]}, "own node"),
        ({"max_sessions": 0}, "max_sessions is 0"),
        ({"wait_limit_s": -1.0}, "wait_limit_s is -1"),
    ],
)
def test_mistakes_are_explained(value: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert(value, GymConfig)


def test_a_mistake_on_the_command_line_names_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        compose("episodes", ["gym.wait_limit_s=soon"])
    assert "gym.wait_limit_s" in caught.value.message
