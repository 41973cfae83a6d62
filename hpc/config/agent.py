"""Configuration of the episode loop."""

from __future__ import annotations

from hpc.config.base import Config


class SamplingConfig(Config):
    """How the model samples; sent with every request."""

    temperature: float = 1.0
    """Softmax temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus mass."""
    max_tokens: int = 2048
    """Longest answer, tokens."""
    seed: int | None = None
    """Base seed; each episode and step derives its own from it. None: the engine's choice."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}, it must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, it must be in (0, 1]")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}, it must be 1 or more")


class ContextConfig(Config):
    """When older steps leave the model's context for a summary of them."""

    max_tokens: int | None = None
    """Have the older half of the steps summarised by the model once the context has so many tokens; None:
    never. Guidance is quoted word by word; nothing leaves the trajectory."""
    prompt: str = "summary"
    """What the model is asked for: a file of templates/prompts/ without its ending."""

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1000:
            raise ValueError(f"max_tokens is {self.max_tokens}, it must be 1000 or more, or null")


class AgentConfig(Config):
    """Limits and habits of an agent."""

    prompt: str = "react"
    """System prompt: a file of templates/prompts/ without its ending."""
    max_steps: int = 4000
    """The episode is truncated after this many steps."""
    max_working_seconds: float = 172800.0
    """The episode is truncated after this much working time (queue time does not count)."""
    max_malformed: int = 25
    """So many malformed answers in a row end the episode as failed at the model."""
    keep_observations: int | None = None
    """Show the model only the newest N observations in full (older ones are elided, never stored
    differently); None: all. Guidance is never elided."""
    context: ContextConfig = ContextConfig()
    """Summaries in place of old steps."""
    model_wait_seconds: float = 1800.0
    """How long a request may wait for any live endpoint before the attempt gives up."""
    alert_wait_seconds: float = 0.0
    """How long an agent waits for a reply after its own request for help; 0: it never waits."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling parameters."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_malformed"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if self.max_working_seconds <= 0:
            raise ValueError(f"max_working_seconds is {self.max_working_seconds}, it must be positive")
        if self.keep_observations is not None and self.keep_observations < 1:
            raise ValueError(f"keep_observations is {self.keep_observations}, it must be 1 or more, or null")
