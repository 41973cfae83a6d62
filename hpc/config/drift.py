"""Configuration of the drift detectors: what makes an agent's step worth a human's look.

Every detector states its strength as a score in [0, 1) that is 0.5 exactly at its limit; the
limits are the fields below.
"""

from __future__ import annotations

import re

from hpc.config.base import Config
from hpc.config.endpoint import check_endpoint


def _at_least(section: Config, least: float, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if not value >= least:
            raise ValueError(f"{name} is {value}, it must be {least} or more")


def _fraction(section: Config, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if not 0 < value <= 1:
            raise ValueError(f"{name} is {value}, it must be above 0 and at most 1")


class RepetitionConfig(Config):
    """The same action with the same arguments brings the same observation."""

    enabled: bool = True
    """Whether this detector looks."""
    weight: float = 1.0
    """Its share in the drift score, in (0, 1]."""
    times: int = 3
    """So many equal steps make an alert."""
    window: int = 12
    """They are sought among this many last steps, so that a short cycle counts as well."""

    def __post_init__(self) -> None:
        _fraction(self, "weight")
        _at_least(self, 2, "times")
        _at_least(self, self.times, "window")


class ErrorStreakConfig(Config):
    """Errors in a row."""

    enabled: bool = True
    """Whether this detector looks."""
    weight: float = 0.8
    """Its share in the drift score, in (0, 1]."""
    errors: int = 5
    """So many error observations in a row make an alert."""

    def __post_init__(self) -> None:
        _fraction(self, "weight")
        _at_least(self, 1, "errors")


class MonitoringConfig(Config):
    """Looking at running work that does not move."""

    enabled: bool = True
    """Whether this detector looks."""
    weight: float = 0.9
    """Its share in the drift score, in (0, 1]."""
    polls: int = 10
    """So many polling actions in a row, with nothing moving, make an alert."""

    def __post_init__(self) -> None:
        _fraction(self, "weight")
        _at_least(self, 2, "polls")


class MalformedConfig(Config):
    """Answers that are no action."""

    enabled: bool = True
    """Whether this detector looks."""
    weight: float = 0.8
    """Its share in the drift score, in (0, 1]."""
    answers: int = 3
    """So many malformed answers in a row make an alert."""

    def __post_init__(self) -> None:
        _fraction(self, "weight")
        _at_least(self, 1, "answers")


class NoProgressConfig(Config):
    """Many steps without a new best progress or score."""

    enabled: bool = True
    """Whether this detector looks."""
    weight: float = 0.6
    """Its share in the drift score, in (0, 1]."""
    steps: int = 150
    """So many steps without a new best make an alert; waiting for a job that moves is not counted."""

    def __post_init__(self) -> None:
        _fraction(self, "weight")
        _at_least(self, 1, "steps")


class FailureStreakConfig(Config):
    """Attempt after attempt fails at the same place."""

    enabled: bool = True
    """Whether this detector looks."""
    weight: float = 1.0
    """Its share in the drift score, in (0, 1]."""
    attempts: int = 3
    """So many failed attempts at the same place, without progress between, make an alert."""
    window: int = 40
    """They are sought among this many last steps."""
    pattern: str = ""
    """Regular expression (searched in each line) that marks an observation as a failed attempt,
    beside errors and non-zero exit codes; empty: those two alone."""

    def __post_init__(self) -> None:
        _fraction(self, "weight")
        _at_least(self, 2, "attempts")
        _at_least(self, self.attempts, "window")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern is {self.pattern!r}, which is not a regular expression: {error}") from None


class BudgetBurnConfig(Config):
    """The budget runs ahead of the progress."""

    enabled: bool = True
    """Whether this detector looks."""
    weight: float = 0.6
    """Its share in the drift score, in (0, 1]."""
    lead: float = 0.5
    """The used share of steps or working time, whichever is larger, may be this far ahead of the
    best progress; farther makes an alert."""

    def __post_init__(self) -> None:
        _fraction(self, "weight", "lead")


class LogprobConfig(Config):
    """The model grows less sure of its own words than it was."""

    enabled: bool = False
    """Whether this detector looks; it needs log-probabilities (server.token_ids)."""
    weight: float = 0.6
    """Its share in the drift score, in (0, 1]."""
    window: int = 8
    """Newest steps whose mean log-probability is compared."""
    baseline: int = 40
    """With so many steps before them; nothing is said of an episode before it has them all."""
    deviations: float = 4.0
    """A fall below the baseline of this many standard errors makes an alert."""
    floor: float = 0.05
    """Least spread of single steps, nats a token, that is assumed: a model that is always sure would
    else be called unsure for nothing."""

    def __post_init__(self) -> None:
        _fraction(self, "weight")
        _at_least(self, 1, "window")
        _at_least(self, 2, "baseline")
        for name in ("deviations", "floor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be above 0")


class JudgeConfig(Config):
    """A language model is asked now and then whether the agent drifts. The agent never waits for it."""

    enabled: bool = False
    """Whether it is asked."""
    weight: float = 0.8
    """Its share in the drift score, in (0, 1]."""
    every: int = 20
    """Asked after every so many steps; a verdict counts for as many."""
    confidence: float = 0.7
    """A verdict "drifting" with this confidence makes an alert, in (0, 1)."""
    steps: int = 12
    """It is shown so many last steps, each cut to ``characters``."""
    characters: int = 600
    """Characters of an action and of an observation that it is shown, each."""
    answer_tokens: int = 300
    """Longest answer, tokens."""
    calls: int = 50
    """Budget of an episode: so many questions."""
    tokens: int = 250_000
    """Budget of an episode: no question once so many tokens are used, prompts and answers."""
    wait_seconds: float = 120.0
    """An answer that takes longer is no verdict."""
    prompt: str = "drift"
    """File of templates/prompts/judge/ without its ending."""
    url: str | None = None
    """OpenAI-compatible endpoint, ends in /v1; null: the run's own server."""
    model: str | None = None
    """Name of the model there; null with ``url``: the run's own model."""
    api_key_env: str | None = None
    """Environment variable that holds the key of ``url``."""

    def __post_init__(self) -> None:
        _fraction(self, "weight")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}, it must be above 0 and below 1")
        _at_least(self, 1, "every", "steps", "characters", "answer_tokens", "calls", "tokens")
        if not self.wait_seconds > 0:
            raise ValueError(f"wait_seconds is {self.wait_seconds}, it must be above 0")
        check_endpoint(self.url, self.model, self.api_key_env)


class AskConfig(Config):
    """The agent asks for a human by itself."""

    enabled: bool = True
    """Whether requests become alerts."""
    every: int = 5
    """Requests within this many steps of the last one are taken as the same request."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "every")


class MilestoneConfig(Config):
    """Notices, not alarms: the best progress or score passed a mark."""

    enabled: bool = True
    """Whether marks become notices."""
    marks: tuple[float, ...] = (0.5, 1.0)
    """Marks in (0, 1] of the best progress (a score counts as score / 100)."""

    def __post_init__(self) -> None:
        for mark in self.marks:
            if not 0 < mark <= 1:
                raise ValueError(f"marks holds {mark}, a mark must be above 0 and at most 1")


class DriftConfig(Config):
    """Which detectors look at an episode, and how often they may alert."""

    enabled: bool = True
    """False: nobody looks; no alerts, no requests, no notices."""
    repetition: RepetitionConfig = RepetitionConfig()
    """Equal steps."""
    error_streak: ErrorStreakConfig = ErrorStreakConfig()
    """Errors in a row."""
    monitoring: MonitoringConfig = MonitoringConfig()
    """Polling work that does not move."""
    malformed: MalformedConfig = MalformedConfig()
    """Answers that are no action."""
    no_progress: NoProgressConfig = NoProgressConfig()
    """Nothing new for long."""
    failure_streak: FailureStreakConfig = FailureStreakConfig()
    """Failing at the same place."""
    budget_burn: BudgetBurnConfig = BudgetBurnConfig()
    """Budget used against progress made."""
    logprob: LogprobConfig = LogprobConfig()
    """Less sure than before; off."""
    judge: JudgeConfig = JudgeConfig()
    """A model's verdict; off."""
    combined_at: float | None = 0.85
    """An alert is due as well when the drift score over all detectors reaches this; null: never."""
    release: float = 0.25
    """A detector that alerted is ready again once its score has fallen below this."""
    repeat_after: int | None = None
    """A detector that has not fallen below ``release`` may alert again after this many steps if it
    has new evidence; null: it does not repeat itself."""
    cooldown: int = 10
    """Steps between two drift alerts of an episode, unless progress was made since the first."""
    ask: AskConfig = AskConfig()
    """The agent's own requests; they know no cool-down but their own."""
    milestone: MilestoneConfig = MilestoneConfig()
    """Notices of progress."""

    def __post_init__(self) -> None:
        if self.combined_at is not None:
            _fraction(self, "combined_at")
        if not 0 < self.release <= 0.5:
            raise ValueError(f"release is {self.release}, it must be above 0 and at most 0.5")
        if self.repeat_after is not None:
            _at_least(self, 1, "repeat_after")
        _at_least(self, 0, "cooldown")


class DriftStudyConfig(Config):
    """The detectors of `hpc drift replay|tune`."""

    drift: DriftConfig
