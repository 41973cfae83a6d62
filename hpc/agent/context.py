"""Keeping the context within its limit: a summary takes the place of the older half of the steps.

After Apollo (arXiv 2510.27630) as InnovatorBench's agent does it: when the context reaches its limit the
model is asked to write down what it needs of the older half; the newer half is attached again behind
that. What people said is not left to the model: the guidance of the steps that go is quoted word by word
by this program. Pure but for the question to the model.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from hpc.agent.protocols import Model
from hpc.agent.state import EpisodeState
from hpc.config.agent import AgentConfig, ContextConfig
from hpc.core.errors import EndpointNotFound, ServerNotReady, ServingError
from hpc.trajectories.records import ContextRewritten, GuidanceApplied, ModelResponse, Usage
from hpc.trajectories.turns import real_user

CHARACTERS_A_TOKEN = 3.5
"""Of text that no engine has counted yet; rather too few, so that the limit is met early."""
SPARE_TOKENS = 4096
"""Of the model's window, for an observation that came since the context was counted."""
ITSELF = "apollo-hpc"
LISTED_CHARACTERS = 160
_TAG = re.compile(r"<(/?)real_user>", re.IGNORECASE)

Cost = Callable[[ModelResponse], Usage | None]


class ContextKeeper:
    """Decides when a context is too long, and has it summarised.

    Args:
        config: limits.
        instruction: what the model is asked for, as the last user's turn.
        model: who is asked.
        cost: what an answer cost.
    """

    def __init__(
        self, config: ContextConfig, instruction: str, model: Model, cost: Cost = lambda answer: answer.usage
    ) -> None:
        self.config = config
        self._instruction = instruction
        self._model = model
        self._cost = cost

    async def rewrite(self, state: EpisodeState) -> ContextRewritten | None:
        """The record of a summary that is due now, or None.

        Raises:
            EndpointNotFound, ServerNotReady: no endpoint answered for too long; ask again later.
        """
        limit = self.config.max_tokens
        if limit is None or context_tokens(state) < limit:
            return None
        last = last_to_go(state)
        if last is None:  # a single step fills the context: nothing older is left to take out
            return None
        messages = [*state.messages_to(last), {"role": "user", "content": self._instruction}]
        answer: ModelResponse | None = None
        try:
            answer = await self._model.complete(messages, [])
        except (EndpointNotFound, ServerNotReady):
            raise
        except ServingError:  # refused, as a text that is too long is: a poor summary is better than no episode
            pass
        written = answer.text.strip() if answer is not None else ""
        quoted = [given for given in state.guidance if given.applied_step <= last]
        return ContextRewritten(
            number=state.summaries + 1,
            at=time.time(),
            after_step=state.step,
            last_step=last,
            text=summary_text(last, written or listing(state, last), quoted),
            guidance=[given.id for given in quoted],
            written_by=answer.model or "model" if answer is not None and written else ITSELF,
            model_seconds=answer.seconds if answer is not None else 0.0,
            usage=self._cost(answer) if answer is not None else None,
        )


def context_config(config: AgentConfig, window: int | None) -> ContextConfig:
    """The limits of a context for a model with a ``window`` of so many tokens: where summaries are asked for,
    they come before an answer, and what a tool may add to it, no longer fit."""
    limit = config.context.max_tokens
    if limit is None or window is None:
        return config.context
    room = window - config.sampling.max_tokens - SPARE_TOKENS
    return replace(config.context, max_tokens=min(limit, max(room, window // 2)))


def context_tokens(state: EpisodeState) -> int:
    """Tokens of the context as it is now: what the engine counted, and an estimate of what came since."""
    counted, since = state.counted
    return counted + int(sum(map(characters, state.messages[since:])) / CHARACTERS_A_TOKEN)


def last_to_go(state: EpisodeState) -> int | None:
    """The last step of the older half, by characters, of those that the context still shows; at least one
    goes and one stays. None if there are not two."""
    first = state.first_shown
    if state.step - first < 1:
        return None
    sizes = [sum(map(characters, state.messages_of(step))) for step in range(first, state.step + 1)]
    half, size = sum(sizes) / 2, 0.0
    for step, own in zip(range(first, state.step), sizes, strict=False):
        size += own
        if size >= half:
            return step
    return state.step - 1


def summary_text(last: int, written: str, guidance: Sequence[GuidanceApplied]) -> str:
    """The user's turn that stands for steps 1 to ``last``. A model cannot speak as a person in it."""
    parts = [f"[Steps 1 to {last} were taken out of your context. This is what you noted of them.]"]
    parts.append(_TAG.sub(r"[\1real_user]", written))
    if guidance:
        parts.append("[What people told you in these steps, word for word. It still holds.]")
        parts += [f"after step {given.applied_step}: {real_user(given.text)}" for given in guidance]
    return "\n\n".join(parts)


def listing(state: EpisodeState, last: int) -> str:
    """Notes without a model: what was done, a line for each step of the last ones that go."""
    views = [view for view in state.views if view.step <= last][-50:]
    lines = [
        f"{view.step}. {view.action} {view.arguments[:LISTED_CHARACTERS]}"
        + (" -> error" if view.is_error else "")
        + (f" -> score {view.score:g}" if view.score is not None else "")
        for view in views
    ]
    return "\n".join(["No summary could be written. The last actions:", *lines])


def characters(message: dict[str, Any]) -> int:
    """Characters of a message, tool calls included."""
    calls = message.get("tool_calls") or []
    return len(str(message.get("content") or "")) + sum(len(str(call)) for call in calls)
