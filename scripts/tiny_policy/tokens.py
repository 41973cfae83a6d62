"""The tiny policy's tokenizer and chat template.

A byte-level BPE, so that any text can be written, in front of which a splitter cuts out whole
pieces: the words of MiniLab (values, knobs, options, tool names, numbers), always without the
spaces around them, so that a word is one token wherever it stands; and the phrases that
demonstrations repeat between those words, learned by counting. An action is 6 to 12 tokens.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hpc.gym.actions import ACTIONS
from hpc.tasks.minilab.facts import CATEGORIES, KNOBS, UNSET
from tiny_policy.guidance import CORES
from tiny_policy.teacher import Demonstration, demonstrate

PAD, END, SYSTEM, USER, ASSISTANT, TOOL = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"
SPECIAL = (PAD, END, SYSTEM, USER, ASSISTANT, TOOL)
MARKS = ("<tool_call>", "</tool_call>", "<real_user>", "</real_user>")
NUMBERS = 100
"""0 .. 99 have tokens of their own."""
MERGES = 400
"""Merges of the BPE below the pieces."""
COMMON = 40
"""A phrase that stands so often in the sample becomes a piece."""

TEMPLATE = (
    "{%- if messages[0].role == 'system' -%}{{- '<|system|>' + messages[0].content -}}"
    "{%- if tools -%}{{- '\\n' -}}{%- for tool in tools -%}"
    "{{- tool.function.name + (' ' if not loop.last else '') -}}{%- endfor -%}{%- endif -%}"
    "{{- '<|end|>' -}}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}"
    "{{- '<|user|>' + message.content + '<|end|>' -}}"
    "{%- elif message.role == 'tool' -%}{{- '<|tool|>' + message.content + '<|end|>' -}}"
    "{%- elif message.role == 'assistant' -%}{{- '<|assistant|>' + (message.content or '') -}}"
    "{%- for call in message.tool_calls or [] -%}"
    '{{- \'<tool_call>{"name": "\' + call.function.name + \'", "arguments": \' -}}'
    "{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}"
    "{{- '}</tool_call>' -}}{%- endfor -%}{{- '<|end|>' -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""Only the names of the tools are shown; a tool call reads back exactly as it was written."""


def turn(message: dict[str, Any], tools: Sequence[str] = ()) -> str:
    """One message as the template writes it."""
    role, content = message["role"], message.get("content") or ""
    if role == "system":
        names = "\n" + " ".join(tools) if tools else ""
        return f"{SYSTEM}{content}{names}{END}"
    if role == "assistant":
        for call in message.get("tool_calls", []):
            function = call["function"]
            content += f'<tool_call>{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}</tool_call>'
        return f"{ASSISTANT}{content}{END}"
    return f"{TOOL if role == 'tool' else USER}{content}{END}"


def words() -> list[str]:
    """The words that are tokens of their own."""
    values = [value for members in CATEGORIES.values() for value in members]
    options = [option for members in KNOBS.values() for option in members]
    return [*values, *options, *KNOBS, UNSET, *ACTIONS]


def heads() -> list[str]:
    """A knob with what joins it to its option, as one token. The option then follows at once,
    in advice as in a recipe: copying what follows a token is what attention learns first."""
    return [f"{knob}{joint}" for knob in KNOBS for joint in (": ", " to ")]


def _words_pattern() -> str:
    listed = sorted(words(), key=len, reverse=True)
    joined = "|".join(map(re.escape, heads()))
    return rf"(?<!\w)(?:(?:{joined})|(?:{'|'.join(map(re.escape, listed))})(?!\w))"


def sample(seed: int, count: int = 400) -> list[Demonstration]:
    """Demonstrations from which phrases are learned."""
    rng = random.Random(f"tiny-policy-tokens:{seed}")
    return [demonstrate(rng) for _ in range(count)]


def phrases(demonstrations: Iterable[Demonstration]) -> list[str]:
    """What stands, often and unchanged, between words, numbers and marks; longest first."""
    cut = re.compile("|".join([_words_pattern(), r"\d{1,2}", *map(re.escape, (*SPECIAL, *MARKS))]))
    seen: Counter[str] = Counter()
    for demonstration in demonstrations:
        for message in demonstration.messages:
            seen.update(cut.split(turn(message, demonstration.tools)))
    common = [text for text, count in seen.items() if count >= COMMON and len(text) > 1]
    return sorted(common, key=lambda text: (-len(text), text))


def build(seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer; the same for the same seed."""
    demonstrations = sample(seed)
    learned = phrases(demonstrations)
    ends = [re.escape(text) + (r"(?!\w)" if text[-1].isalnum() else "") for text in learned]
    pattern = "|".join([_words_pattern(), *ends, r"\d{1,2}", r"\p{L}+ ?", r"[^\s\p{L}\p{N}]+ ?", r"\s+", r"."])
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    general = Tokenizer(models.BPE())
    general.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+ ?|\p{N}{1,2}|[^\s\p{L}\p{N}]+ ?|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + MERGES, initial_alphabet=alphabet, show_progress=False, max_token_length=16
    )
    general.train_from_iterator([*CORES, *learned, *words()] * 10, trainer)
    below = json.loads(general.to_str())["model"]
    vocabulary = dict(below["vocab"])
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for piece in [*words(), *heads(), *map(str, range(NUMBERS)), *learned]:
        written = "".join(part for part, _ in to_bytes.pre_tokenize_str(piece))
        vocabulary.setdefault(written, len(vocabulary))
    merges = [tuple(merge) for merge in below["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


OPTION_AT = 6
"""Place of the option in the tokens of an edit: after the turn's mark, ``<tool_call>``, the name in
three pieces and the knob."""


OPTION_WEIGHT = 3.0
"""Weight of the option in an edit: the one token of an action that takes thought."""


class Example(NamedTuple):
    """Token ids, the weight of each in the loss, and the places of words that can be known."""

    ids: list[int]
    weights: list[float]
    places: list[int]


class Encoder:
    """Demonstrations as token ids. Turns end in special tokens, so each is encoded by itself."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self._encode = lru_cache(maxsize=200_000)(
            lambda text: tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        )

    def __call__(self, text: str) -> list[int]:
        return list(self._encode(text))

    def example(self, demonstration: Demonstration, context_weight: float) -> Example:
        """The demonstration as tokens: weight 1 for what the policy learns to say, from its first
        token to its end mark, `OPTION_WEIGHT` for the options it chooses; ``context_weight`` for
        what it reads."""
        ids: list[int] = []
        weights: list[float] = []
        places: list[int] = []
        turns = zip(demonstration.messages, demonstration.taught, demonstration.known, strict=True)
        for message, taught, known in turns:
            piece = self._encode(turn(message, demonstration.tools))
            if known:
                places.append(len(ids) + OPTION_AT)
            ids += piece
            slip = message["role"] == "assistant" and not taught
            inside = 1.0 if taught else 0.0 if slip else context_weight
            weights += [0.0, *[inside] * (len(piece) - 1)]
            if taught and _is_edit(message):
                weights[len(weights) - len(piece) + OPTION_AT] = OPTION_WEIGHT
        return Example(ids, weights, places)


def _is_edit(message: dict[str, Any]) -> bool:
    return any(call["function"]["name"] == "edit_file" for call in message.get("tool_calls", []))
