"""The examples of a dataset as messages: a file beside the shards, one line for each example."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import msgspec
import zstandard

from hpc.core.errors import DatasetError
from hpc.datasets.chat import Message
from hpc.examples import Dataset, Example

CONVERSATIONS = "conversations.jsonl.zst"


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """An example in messages, for formats that hold no tokens.

    ``loss[i]`` is 1 where message i is trained; the first ``opening`` messages stand before step 1. There
    are none where the context was rewritten, which messages cannot tell.
    """

    id: str
    split: str = "train"
    messages: list[Message] = []
    loss: list[int] = []
    opening: int = 0
    tools: list[Message] = []


def conversations(folder: Path) -> Iterator[Conversation]:
    """The conversations of a dataset, in the order of writing.

    Raises:
        DatasetError: absent or damaged.
    """
    path = folder / CONVERSATIONS
    decoder = msgspec.json.Decoder(Conversation)
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as unpacked:
            for line in io.TextIOWrapper(unpacked, encoding="utf-8"):
                yield decoder.decode(line)
    except (OSError, zstandard.ZstdError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path}: {error}", "build the dataset again") from error


def pairs(folder: Path, split: str) -> Iterator[tuple[Example, Conversation]]:
    """The examples of a split with their conversations.

    Raises:
        DatasetError: either is damaged, or they do not belong together.
    """
    with Dataset(folder, split=split) as dataset:
        told = (each for each in conversations(folder) if each.split == split)
        for example, conversation in zip_longest(dataset, told):
            if example is None or conversation is None or example.id != conversation.id:
                raise DatasetError(f"{folder / CONVERSATIONS} is not of these examples", "build the dataset again")
            yield example, conversation
