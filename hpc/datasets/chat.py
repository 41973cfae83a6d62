"""A model's tokenizer and chat template: words to ids and back, and where its turns end.

The template is rendered as `transformers` renders it (its ``apply_chat_template``; a test compares
the two), and ids are made by the package `tokenizers`: neither needs torch, so commands start quickly.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpc.core.errors import DatasetError, MissingExtra
from hpc.core.locate import data_dir

Message = dict[str, Any]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
"""The files that decide what ids mean and how turns are written; their hash names the tokenizer."""
_HINT = "name the folder of the model that played the episodes: dataset.model=FOLDER"
_PROBE: list[Message] = [{"role": "user", "content": "x"}]


class TemplateError(ValueError):
    """The chat template refuses these messages, or does not write them as a sequence of turns."""


class Chat:
    """The tokenizer and chat template in the folder of a model.

    Raises:
        DatasetError: the folder has no fast tokenizer, no chat template, or no end-of-turn token.
        MissingExtra: the package `tokenizers` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tokenizer = _tokenizer(folder / "tokenizer.json")
        self._settings = _json(folder / "tokenizer_config.json")
        self._template = _compiled(_template_text(folder, self._settings))
        self.vocabulary: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        """How many ids the tokenizer knows; every id is below."""
        self.special: frozenset[int] = frozenset(self._tokenizer.get_added_tokens_decoder())
        """Ids of the tokens that text is split at before anything is merged."""
        self.end_of_turn = self._ends()
        """Ids with which the model ends an answer."""
        self.generation: list[int] = self.encode(self.generation_prompt)
        """Ids that stand between the context and an answer."""
        if not self.generation:
            raise DatasetError(f"the chat template of {folder} has no generation prompt", "use another template")

    @classmethod
    def load(cls, name: str) -> Chat:
        """From a folder, or ``shipped:NAME``."""
        folder = data_dir("models") / name.removeprefix("shipped:") if name.startswith("shipped:") else Path(name)
        if not folder.is_dir():
            raise DatasetError(f"there is no model folder {folder}", _HINT)
        return cls(folder)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens written in it become themselves, none is added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def render(self, messages: Sequence[Message], tools: Sequence[Message] = (), *, answer: bool = False) -> str:
        """What the chat template writes.

        Args:
            answer: add the generation prompt, after which the model answers.

        Raises:
            TemplateError: it refuses these messages.
        """
        try:
            text: str = self._template.render(
                messages=[_for_template(message) for message in messages],
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=answer,
                **self._special_names(),
            )
        except Exception as error:  # a template may fail in any way
            raise TemplateError(f"the chat template fails: {' '.join(str(error).split())[:200]}") from error
        return text

    def added(self, before: Sequence[Message], turn: Message, tools: Sequence[Message] = ()) -> str:
        """What a turn adds to the text of the messages before it.

        Raises:
            TemplateError: it changes that text as well.
        """
        without, whole = self.render(before, tools), self.render([*before, turn], tools)
        if not whole.startswith(without) or whole == without:
            raise TemplateError("with one more turn the chat template writes the turns before it differently")
        return whole[len(without) :]

    def answers_in(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """The assistant's turns by the template: from behind each generation prompt to the end of turn, included.

        A turn that nothing ends goes to the end; a generation prompt inside a turn begins none.
        """
        found: list[tuple[int, int]] = []
        generation, width, count = self.generation, len(self.generation), len(tokens)
        at = 0
        while at < count:
            if tokens[at] != generation[0] or list(tokens[at : at + width]) != generation:
                at += 1
                continue
            end = next((place for place in range(at + width, count) if tokens[place] in self.end_of_turn), count - 1)
            found.append((at + width, end + 1))
            at = end + 1
        return found

    @functools.cached_property
    def generation_prompt(self) -> str:
        """The text of `generation`."""
        without, whole = self.render(_PROBE), self.render(_PROBE, answer=True)
        return whole[len(without) :] if whole.startswith(without) else ""

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 over `TOKENIZER_FILES` as they are in the folder."""
        digest = hashlib.sha256()
        for name in TOKENIZER_FILES:
            path = self.folder / name
            data = path.read_bytes() if path.is_file() else b""
            digest.update(f"{name} {len(data)}\n".encode() + data)
        return digest.hexdigest()

    def _ends(self) -> frozenset[int]:
        told = _json(self.folder / "generation_config.json").get("eos_token_id")
        ids = set(told) if isinstance(told, list) else {told} if isinstance(told, int) else set()
        eos = self._tokenizer.token_to_id(self._special_names().get("eos_token", ""))
        if eos is not None:
            ids.add(eos)
        if not ids:
            raise DatasetError(f"the model in {self.folder} names no end-of-turn token", "add generation_config.json")
        return frozenset(ids)

    def _special_names(self) -> dict[str, str]:
        names = {}
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            token = self._settings.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                names[name] = token
        return names


def _tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra(
            "datasets need the package tokenizers", "pip install tokenizers, or apollo-hpc[train]"
        ) from error
    if not path.is_file():
        raise DatasetError(f"{path.parent} has no tokenizer.json", f"save it as a fast tokenizer, or {_HINT}")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception
        raise DatasetError(f"cannot read {path}: {error}", _HINT) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read {path}: {error}", _HINT) from error
    return value if isinstance(value, dict) else {}


def _template_text(folder: Path, settings: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    told = settings.get("chat_template")
    if isinstance(told, list):  # several by name
        told = next((each.get("template") for each in told if each.get("name") == "default"), None)
    if not isinstance(told, str):
        raise DatasetError(f"{folder} has no chat template", "add chat_template.jinja")
    return told


def _compiled(text: str) -> Any:
    from jinja2 import TemplateError as JinjaError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def fail(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = fail
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(text)
    except JinjaError as error:
        raise DatasetError(f"the chat template is not Jinja: {error}", "mend chat_template.jinja") from error


def _for_template(message: Message) -> Message:
    """As servers hand it to the template: arguments of tool calls as objects where they are JSON."""
    calls = message.get("tool_calls")
    return message if not calls else {**message, "tool_calls": [_call(call) for call in calls]}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    written = function.get("arguments")
    if isinstance(written, str):
        try:
            parsed = json.loads(written)
        except (ValueError, RecursionError):
            return call
        if isinstance(parsed, dict):
            return {**call, "function": {**function, "arguments": parsed}}
    return call
