"""Configuration of how annotators are met."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from hpc.config.attention import AttentionConfig
from hpc.config.base import Config

SLACK_API = "https://slack.com/api/"

_CHANNEL = re.compile(r"[CGD][A-Z0-9]{2,20}")
_USER = re.compile(r"[UW][A-Z0-9]{2,20}")
_USERGROUP = re.compile(r"S[A-Z0-9]{2,20}")


class SlackConfig(Config):
    """Where the Slack app posts, and whom it obeys. Tokens are never part of a configuration."""

    base_url: str = SLACK_API
    """Root of Slack's Web API; another one for a development server."""
    channel: str = ""
    """Id of the channel that episodes report to (C… or G…, not its name); the app must be a member."""
    annotators: tuple[str, ...] = ()
    """Ids of the users (U… or W…) whose replies become guidance."""
    usergroup: str | None = None
    """Id of a user group (S…) whose members are annotators too."""
    usergroup_seconds: float = 300.0
    """How long the members of the user group are remembered before they are asked for again."""
    sockets: int = 2
    """Socket Mode connections held at a time, so that one stays while Slack renews the other."""
    catch_up_seconds: float = 60.0
    """How often the threads of live episodes are read for replies that no socket delivered."""
    posts_per_second: float = 1.0
    """Posts a second into one channel, in the long run; Slack allows 1."""
    post_burst: int = 3
    """Posts into one channel at once before that limit holds."""
    shown_steps: int = 5
    """How many of the last steps an alert shows."""

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"base_url is {self.base_url!r}, it must be a URL such as {SLACK_API}")
        if url.scheme == "http" and url.hostname.endswith("slack.com"):
            raise ValueError(f"base_url is {self.base_url!r}, Slack's own servers are reached by https only")
        if self.channel and not _CHANNEL.fullmatch(self.channel):
            raise ValueError(
                f"channel is {self.channel!r}, it must be a channel's id such as C0123456789, not its name"
            )
        for user in self.annotators:
            if not _USER.fullmatch(user):
                raise ValueError(f"annotators has {user!r}, each must be a user's id such as U0123456789, not a name")
        if self.usergroup is not None and not _USERGROUP.fullmatch(self.usergroup):
            raise ValueError(f"usergroup is {self.usergroup!r}, it must be a user group's id such as S0123456789")
        if not 1 <= self.sockets <= 10:
            raise ValueError(f"sockets is {self.sockets}, Slack allows 1 to 10")
        for name in ("usergroup_seconds", "catch_up_seconds", "posts_per_second"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be positive")
        for name in ("post_burst", "shown_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")


class AnnotatorsConfig(Config):
    """By which way annotators are met."""

    kind: Literal["slack", "console", "none"] = "console"
    """slack: a channel; console: `hpc inbox` in a terminal only; none: no router at all."""
    slack: SlackConfig = SlackConfig()
    """The Slack app; read when kind is slack."""
    attention: AttentionConfig = AttentionConfig()
    """When and how often annotators are called."""
    tokens_file: str | None = None
    """File with SLACK_BOT_TOKEN= and SLACK_APP_TOKEN= lines, mode 0600, readable where the router
    runs; None: the environment variables of those names."""

    def __post_init__(self) -> None:
        if self.kind != "slack":
            return
        for target in self.attention.escalation.to:
            if not (_USER.fullmatch(target) or _USERGROUP.fullmatch(target)):
                raise ValueError(
                    f"attention.escalation.to has {target!r}, each must be a user's (U…) or a user group's (S…) id"
                )
