"""What is wrong with a configuration is said on one line, with the dotted path, and how to mend it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpc.cli import cli
from hpc.config import compose, config_hash, list_configs
from hpc.core.errors import ConfigError

WRONG = {
    # unknown keys and options
    "agent.max_step=3": ("unknown key 'agent.max_step'", "did you mean 'max_steps'?"),
    "+agent.max_step=3": ("unknown key 'agent.max_step'", "did you mean 'max_steps'?"),
    "agent.sampling.temprature=1": ("unknown key 'agent.sampling.temprature'", "did you mean 'temperature'?"),
    "cluster.resources.episode.gpu=1": ("unknown key 'cluster.resources.episode.gpu'", "did you mean 'gpus'?"),
    "nonsense=1": ("unknown key 'nonsense'", "one of: run, cluster"),
    "agent=tny": ("group 'agent' has no option 'tny'", "did you mean 'tiny'?"),
    "agent=nonsense": ("group 'agent' has no option 'nonsense'", "one of: react, tiny"),
    "cluster.executor=slum": ("cluster.executor is 'slum'", "did you mean 'slurm'?"),
    # types
    "agent.max_steps=many": ("agent.max_steps: expected `int`, got `str`", "hpc config show episodes"),
    "run=3": ("run: expected a mapping, got `int`", "hpc config show episodes"),
    "server.urls=[3]": ("server.urls[0]: expected `str`, got `int`", "hpc config show episodes"),
    # values
    "agent.max_steps=0": ("agent.max_steps is 0, it must be 1 or more", "hpc config show episodes"),
    "run.name=a/b": ("run.name is 'a/b'", "hpc config show episodes"),
    "cluster.resources.episode.gpus=-1": ("cluster.resources.episode.gpus is -1", "hpc config show episodes"),
    "drift.failure_streak.pattern='('": ("drift.failure_streak.pattern is '('", "hpc config show episodes"),
    # missing
    "agent.max_steps=???": ("agent.max_steps has no value", "agent.max_steps=VALUE"),
    "model=custom": ("model.name has no value", "model.name=VALUE"),
    "~agent": ("agent has no value", "agent=VALUE"),
    # what is no override at all
    "agent.max_steps": ("override 'agent.max_steps' is not KEY=VALUE", "agent.max_steps=50"),
    "=3": ("override '=3' is not KEY=VALUE", "agent.max_steps=50"),
    "agent.max_steps=[1": ("override 'agent.max_steps=[1' cannot be read", "quote"),
    "agent.max_steps=1,2": ("override 'agent.max_steps=1,2' holds a comma", "quote"),
    "run.name=${oops}": ("run.name: Interpolation key 'oops' not found", "hpc config"),
    "~nonsense": ("nonsense", "hpc config"),
}


@pytest.mark.parametrize("override", WRONG)
def test_one_line_and_the_fix(override: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose("episodes", [override])
    message, hint = WRONG[override]
    assert message in raised.value.message and hint in raised.value.hint
    assert "\n" not in raised.value.message + raised.value.hint
    assert "++" not in raised.value.message


def test_the_command_exits_with_2_and_without_a_traceback() -> None:
    command = [sys.executable, "-m", "hpc.cli", "config", "show", "episodes", "agent.max_step=3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: unknown key 'agent.max_step' in the episodes configuration",
        "  fix: did you mean 'max_steps'?",
    ]


def test_a_group_of_another_kind_is_named() -> None:
    with pytest.raises(ConfigError, match="the router configuration has no group 'agent'"):
        compose("router", ["agent=tiny"])


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigError, match="'episode'"):
        compose("episode")


def test_a_value_that_no_file_mentions_can_be_set() -> None:
    config = compose("episodes", ["agent.keep_observations=5", "drift.ask.every=9", "agent.sampling.seed=7"])
    assert (config.agent.keep_observations, config.drift.ask.every, config.agent.sampling.seed) == (5, 9, 7)


def test_later_overrides_win_and_the_hash_tells() -> None:
    config = compose("episodes", ["agent.max_steps=5", "agent.max_steps=6"])
    assert config.agent.max_steps == 6
    assert config_hash(config) != config_hash(compose("episodes"))


# ---- site folders


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty site folder, searched before the shipped one."""
    monkeypatch.setenv("HPC_CONFIG_PATH", str(tmp_path))
    (tmp_path / "agent").mkdir()
    return tmp_path


def test_a_site_adds_options(site: Path) -> None:
    (site / "agent" / "ours.yaml").write_text("max_steps: 9\n")
    assert "ours" in list_configs()["agent"] and "tiny" in list_configs()["agent"]
    assert compose("episodes", ["agent=ours"]).agent.max_steps == 9


def test_a_site_replaces_options(site: Path) -> None:
    shipped = compose("episodes").agent
    (site / "agent" / "tiny.yaml").write_text("max_steps: 9\n")
    assert compose("episodes").agent.max_steps == 9 != shipped.max_steps


def test_the_first_of_two_sites_wins(
    site: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tmp_path_factory.mktemp("second")
    (second / "agent").mkdir()
    for folder, steps in ((site, 9), (second, 10)):
        (folder / "agent" / "tiny.yaml").write_text(f"max_steps: {steps}\n")
    monkeypatch.setenv("HPC_CONFIG_PATH", f"{site}:{second}")
    assert compose("episodes").agent.max_steps == 9
    monkeypatch.setenv("HPC_CONFIG_PATH", f"{second}:{site}")
    assert compose("episodes").agent.max_steps == 10


def test_a_site_folder_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPC_CONFIG_PATH", "/no/such/folder")
    with pytest.raises(ConfigError, match="/no/such/folder"):
        compose("episodes")


def test_a_wrong_key_in_a_site_file_is_found(site: Path) -> None:
    (site / "agent" / "ours.yaml").write_text("max_step: 9\n")
    with pytest.raises(ConfigError, match=r"unknown key 'agent\.max_step'"):
        compose("episodes", ["agent=ours"])


def test_a_file_that_is_not_yaml_is_named(site: Path) -> None:
    (site / "agent" / "ours.yaml").write_text("max_steps: [1\n")
    with pytest.raises(ConfigError, match="ours"):
        compose("episodes", ["agent=ours"])


# ---- secrets


def test_no_secret_is_in_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-very-secret")
    monkeypatch.setenv("SLACK_APP_TOKEN", "xapp-very-secret")
    for form in ([], ["--json"]):
        shown = CliRunner().invoke(cli, ["config", "show", "episodes", "annotators=slack", *form])
        assert shown.exit_code == 0, shown.output
        assert "kind" in shown.output and "very-secret" not in shown.output


@pytest.mark.parametrize("key", ["annotators.slack.bot_token", "annotators.slack.app_token", "annotators.token"])
def test_a_secret_has_no_place_in_a_configuration(key: str) -> None:
    with pytest.raises(ConfigError, match="unknown key") as raised:
        compose("episodes", [f"{key}=xoxb-very-secret"])
    assert "very-secret" not in str(raised.value)


# ---- the verbs


def test_the_list_names_every_option() -> None:
    shown = CliRunner().invoke(cli, ["config", "list"])
    rows = dict(line.split("\t") for line in shown.output.splitlines())
    assert rows["drift"].split() == ["default", "minilab", "off"]
    assert rows["(kinds)"].split() == [
        "dataset",
        "drift",
        "episodes",
        "grpo",
        "router",
        "server",
        "supervision",
        "train",
    ]


def test_what_is_shown_can_be_read_back() -> None:
    import json

    from omegaconf import OmegaConf

    as_yaml = CliRunner().invoke(cli, ["config", "show", "episodes", "agent.max_steps=5"]).output
    as_json = CliRunner().invoke(cli, ["config", "show", "episodes", "agent.max_steps=5", "--json"]).output
    assert OmegaConf.to_container(OmegaConf.create(as_yaml)) == json.loads(as_json)
    assert json.loads(as_json)["agent"]["max_steps"] == 5
