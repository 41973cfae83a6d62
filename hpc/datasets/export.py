"""A dataset in the forms that other trainers read.

Forms of tokens hold everything that is trained exactly. Forms of messages are tokenised again by their
reader, cannot show a rewritten context, and some train every answer: rows that would then train what
this dataset does not are left out and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from hpc.core.errors import DatasetError, MissingExtra
from hpc.datasets.conversations import Conversation, pairs
from hpc.examples import Example

IGNORED = -100
"""Label of tokens without loss, as PyTorch's cross entropy has it."""
GROUP_TOKENS = 1 << 20
"""So many tokens are held until a group of Parquet rows is written."""

RETOKENISED = "the engine's token ids: the reader tokenises the messages again"
NO_LOGPROBS = "the engine's log-probabilities"
NO_PROVENANCE = "where an example comes from"
REWRITTEN = "its context was rewritten, messages cannot show it"
MIXED = "it has answers that are context only, this form would train them"

Row = dict[str, Any]


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """A form: how a row is made, what it cannot hold, and whether it needs messages or trains all of them."""

    row: Callable[[Example, Conversation], Row]
    losses: tuple[str, ...]
    messages: bool = False
    trains_all: bool = False


class Exported(msgspec.Struct, kw_only=True):
    """What was written, what of it was lost, and which examples were left out by reason."""

    written: int = 0
    left_out: Counter[str] = msgspec.field(default_factory=Counter)
    lost: tuple[str, ...] = ()


def _labels(example: Example) -> list[int]:
    labels: list[int] = [
        int(token) if on else IGNORED for token, on in zip(example.tokens, example.loss_mask, strict=True)
    ]
    return labels


def _trl(example: Example, said: Conversation) -> Row:
    return {
        "input_ids": example.tokens.tolist(),
        "labels": _labels(example),
        "assistant_masks": example.loss_mask.tolist(),
    }


def _axolotl(example: Example, said: Conversation) -> Row:
    return {
        "input_ids": example.tokens.tolist(),
        "attention_mask": [1] * len(example.tokens),
        "labels": _labels(example),
    }


def _slime(example: Example, said: Conversation) -> Row:
    messages = [
        {**message, "step_loss_mask": flag} if message["role"] == "assistant" else message
        for message, flag in zip(said.messages, said.loss, strict=True)
    ]
    return {"messages": messages, "tools": said.tools, "metadata": _provenance(example)}


def _verl(example: Example, said: Conversation) -> Row:
    return {"messages": said.messages, "tools": said.tools, "extra_info": _provenance(example)}


def _parquet(example: Example, said: Conversation) -> Row:
    return {
        "id": example.id,
        "messages": [_struct(message) for message in said.messages],
        "tools": json.dumps(said.tools, ensure_ascii=False),
        "loss_mask": said.loss,
        "tokens": example.tokens.tolist(),
        "token_loss_mask": example.loss_mask.tolist(),
        "metadata": json.dumps(_provenance(example), ensure_ascii=False),
    }


def _provenance(example: Example) -> Row:
    named = ("episode_id", "task_family", "task_id", "arm", "segment", "score", "status")
    return {"id": example.id, **{name: example.meta.get(name) for name in named}}


FORMS: dict[str, Form] = {
    "trl": Form(row=_trl, losses=(NO_LOGPROBS, NO_PROVENANCE)),
    "axolotl": Form(row=_axolotl, losses=(NO_LOGPROBS, NO_PROVENANCE)),
    "slime": Form(row=_slime, losses=(RETOKENISED, NO_LOGPROBS), messages=True),
    "verl": Form(row=_verl, losses=(RETOKENISED, NO_LOGPROBS), messages=True, trains_all=True),
}
"""Whose field names the rows of JSONL have."""
PARQUET = Form(row=_parquet, losses=(NO_LOGPROBS,))


def export(
    folder: Path,
    out: Path,
    *,
    parquet: bool,
    reader: str = "trl",
    split: str = "train",
    overwrite: bool = False,
    on_example: Callable[[], None] = lambda: None,
) -> Exported:
    """Write one split of a dataset.

    Args:
        out: the file; it appears whole or not at all.
        parquet: Parquet ``{messages, tools, loss_mask, tokens, token_loss_mask, …}``; ``loss_mask`` is
            one number a message, ``messages`` is empty where the context was rewritten. Otherwise
            JSONL, one row a line, for the trainer ``reader`` (one of `FORMS`).

    Raises:
        DatasetError: no such dataset or split, damage, ``out`` exists, or nothing could be written.
        MissingExtra: Parquet without pyarrow.
    """
    form = PARQUET if parquet else FORMS[reader]
    if out.exists() and not overwrite:
        raise DatasetError(f"{out} exists already", "choose another name, or --overwrite")
    done = Exported(lost=form.losses)
    temporary = out.with_name(f"{out.name}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _parquet_rows(temporary) if parquet else _lines(temporary) as add:
            for example, said in pairs(folder, split):
                on_example()
                if reason := _left_out(form, example, said):
                    done.left_out[reason] += 1
                    continue
                add(form.row(example, said))
                done.written += 1
        if not done.written:
            reasons = "; ".join(f"{count}: {reason}" for reason, count in done.left_out.items())
            raise DatasetError(f"{folder} has no example that this form can hold ({reasons})", "choose another form")
        temporary.rename(out)
    finally:
        temporary.unlink(missing_ok=True)
    return done


def _left_out(form: Form, example: Example, said: Conversation) -> str:
    if form.messages and not said.messages:
        return REWRITTEN
    return MIXED if form.trains_all and example.meta.get("context_only") else ""


@contextmanager
def _lines(path: Path) -> Iterator[Callable[[Row], None]]:
    with path.open("wb") as file:

        def add(row: Row) -> None:
            file.write(msgspec.json.encode(row) + b"\n")

        yield add


@contextmanager
def _parquet_rows(path: Path) -> Iterator[Callable[[Row], None]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("Parquet needs the package pyarrow", "pip install 'apollo-hpc[data]'") from error
    schema = _schema(pyarrow)
    rows: list[Row] = []
    waiting = 0
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            nonlocal waiting
            if rows:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            rows.clear()
            waiting = 0

        def add(row: Row) -> None:
            nonlocal waiting
            rows.append(row)
            waiting += len(row["tokens"])
            if waiting >= GROUP_TOKENS:
                flush()

        yield add
        flush()


def _schema(arrow: Any) -> Any:
    text = arrow.string()
    function = arrow.struct([("name", text), ("arguments", text)])
    call = arrow.struct([("id", text), ("type", text), ("function", function)])
    message = [("role", text), ("content", text), ("tool_call_id", text), ("tool_calls", arrow.list_(call))]
    return arrow.schema(
        [
            ("id", text),
            ("messages", arrow.list_(arrow.struct(message))),
            ("tools", text),
            ("loss_mask", arrow.list_(arrow.int8())),
            ("tokens", arrow.list_(arrow.int32())),
            ("token_loss_mask", arrow.list_(arrow.int8())),
            ("metadata", text),
        ]
    )


def _struct(message: Row) -> Row:
    content = message.get("content")
    calls = message.get("tool_calls")
    return {
        "role": message["role"],
        "content": content if content is None or isinstance(content, str) else json.dumps(content, ensure_ascii=False),
        "tool_call_id": message.get("tool_call_id"),
        "tool_calls": None if not calls else [_call(call) for call in calls],
    }


def _call(call: Row) -> Row:
    function = call.get("function") or {}
    written = function.get("arguments")
    arguments = written if isinstance(written, str) else json.dumps(written, ensure_ascii=False)
    return {
        "id": call.get("id"),
        "type": call.get("type"),
        "function": {"name": function.get("name"), "arguments": arguments},
    }
