"""An example for the eye: what is trained in one colour, what is context only in another."""

from __future__ import annotations

import click

from hpc.datasets.chat import Chat
from hpc.datasets.proofs import runs_of
from hpc.examples import Example

CONTEXT_SHOWN = 400
"""Characters of a stretch of context that are shown, half of each end."""


def coloured(example: Example, chat: Chat) -> str:
    """The example decoded: trained text green between ``[[`` and ``]]``, context dim; long context is shortened."""
    tokens = [int(token) for token in example.tokens]
    parts = [click.style(f"{example.id}: {example.trained} of {len(tokens)} tokens trained", bold=True), "\n"]
    at = 0
    for start, end in runs_of(example.loss_mask):
        parts.append(click.style(_short(chat.decode(tokens[at:start])), dim=True))
        parts.append(click.style(f"[[{chat.decode(tokens[start:end])}]]", fg="green"))
        at = end
    parts.append(click.style(_short(chat.decode(tokens[at:])), dim=True))
    return "".join(parts)


def _short(text: str) -> str:
    if len(text) <= CONTEXT_SHOWN:
        return text
    half = CONTEXT_SHOWN // 2
    return f"{text[:half]} … {text[-half:]}"
