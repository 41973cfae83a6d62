"""A chat template and its tokenizer: where turns begin and end, in token ids."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpc.core.errors import DatasetError, MissingExtra

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""What decides how text becomes ids; those that there are make up the tokenizer's hash."""

_OPENING: list[dict[str, Any]] = [{"role": "user", "content": "x"}]


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 over the tokenizer's files in ``folder``.

    Raises:
        DatasetError: there are none.
    """
    digest = hashlib.sha256()
    found = [name for name in FILES if (folder / name).is_file()]
    if not found:
        raise DatasetError(f"{folder} has no tokenizer", "name a model's folder in Hugging Face format")
    for name in found:
        digest.update(f"{name}\n".encode())
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


class Template:
    """The tokenizer and chat template of the model in ``folder``.

    Attributes:
        hash: of all files of the tokenizer; ``sha256``: of tokenizer.json alone, if there is one.
        header: ids with which an answer of the model begins.
        end: id that ends a turn.
        vocabulary: number of ids.

    Raises:
        DatasetError: there is none, or its turns cannot be told apart.
        MissingExtra: transformers is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hash = tokenizer_hash(folder)
        file = folder / "tokenizer.json"
        self.sha256 = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            import transformers
        except ImportError as error:
            raise MissingExtra("datasets need transformers' tokenizers", "pip install 'apollo-hpc[train]'") from error
        self.tokenizer = _load(transformers, folder)
        if self.tokenizer.chat_template is None:
            raise DatasetError(f"the tokenizer in {folder} has no chat template", "name the folder of a chat model")
        self.vocabulary = len(self.tokenizer)
        self.header = self._after(self.ids(_OPENING), self.ids(_OPENING, answer=True), "the beginning of an answer")
        answered = [*_OPENING, {"role": "assistant", "content": "x"}]
        turn = self._after(self.ids(_OPENING), self.ids(answered), "an answer")
        while turn and not self.decode(turn[-1:]).strip():
            turn.pop()  # blanks that part turns
        if turn[: len(self.header)] != self.header or turn[-1] not in self._special:
            raise DatasetError(
                f"the chat template in {folder} does not end an answer by a token of its own", "use another"
            )
        self.end = turn[-1]

    def ids(self, messages: Sequence[dict[str, Any]], *, tools: Any = None, answer: bool = False) -> list[int]:
        """A conversation in token ids; with ``answer`` up to where the model's next answer begins."""
        rendered = self.render(messages, tools=tools, answer=answer)
        return [int(token) for token in self.tokenizer(rendered, add_special_tokens=False)["input_ids"]]

    def render(self, messages: Sequence[dict[str, Any]], *, tools: Any = None, answer: bool = False) -> str:
        """A conversation as the template writes it.

        Raises:
            DatasetError: the template refuses it.
        """
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), tools=tools or None, tokenize=False, add_generation_prompt=answer
            )
        except Exception as error:
            raise DatasetError(
                f"the chat template in {self.folder} refuses the messages: {error}", "see them"
            ) from error
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text, special tokens included."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def user_turn(self, text: str) -> tuple[list[int], str]:
        """A user's turn in the middle of a conversation: its ids and how it is written.

        Raises:
            DatasetError: the template writes what comes before in another way once it is there.
        """
        before = [*_OPENING, {"role": "assistant", "content": "x"}]
        old, new = self.render(before), self.render([*before, {"role": "user", "content": text}])
        if not new.startswith(old):
            raise DatasetError(
                f"the chat template in {self.folder} rewrites earlier turns", "keep guidance in the context"
            )
        written = new[len(old) :]
        ids = [int(token) for token in self.tokenizer(written, add_special_tokens=False)["input_ids"]]
        return ids, written

    @functools.cached_property
    def _special(self) -> set[int]:
        return set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)

    def _after(self, old: list[int], new: list[int], what: str) -> list[int]:
        if new[: len(old)] != old or len(new) == len(old):
            raise DatasetError(f"the chat template in {self.folder} does not show {what}", "use another tokenizer")
        return new[len(old) :]


def _load(transformers: Any, folder: Path) -> Any:
    """The tokenizer; one that a later transformers saved names a class that this one need not know."""
    problem: Exception | None = None
    transformers.logging.set_verbosity_error()  # it would warn of the other class's name
    for kind in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        try:
            return kind.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            problem = problem or error
    raise DatasetError(f"cannot load the tokenizer in {folder}: {problem}", "name another folder") from problem
