"""Faults planted in a dataset that was built correctly: each is found and named. Digests are made anew, so
that only the proof of the content can find them, as with a builder that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hpc.datasets.builder import build
from hpc.datasets.chat import Chat
from hpc.datasets.conversations import CONVERSATIONS, Conversation, pairs
from hpc.datasets.episode import digest_of
from hpc.datasets.proofs import runs_of
from hpc.datasets.verify import Verified, verify
from hpc.examples import DatasetWriter, Example
from hpc.examples.manifest import Manifest
from tests.unit.datasets.scripted import Verdict, chat, config, episode, store
from tests.unit.datasets.test_build import SAID, copied

Rows = list[tuple[str, Example, Conversation]]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes with guidance that is kept; step 3 of each is context only."""
    folder = tmp_path_factory.mktemp("good")
    episodes = [episode(5, name=f"demo-{i:05d}", task=f"lab-{i}", guidance={2: [SAID]}) for i in range(2)]
    build(
        store(folder / "run", *episodes), folder / "set", config(filter=True), chat(),
        lambda trajectory: {step: Verdict(step != 3, "blind retry") for step in range(1, 6)}, name="set",
    )  # fmt: skip
    return folder / "set"


def planted(good: Path, target: Path, change: Callable[[Rows], Rows]) -> Path:
    """A dataset whose examples a builder with this fault would have written."""
    rows = change([("train", example, said) for example, said in pairs(good, "train")])
    about = Manifest.read(good / "manifest.json").about
    with DatasetWriter(target, about=about) as writer:
        for split, example, _ in rows:
            writer.add(example, split=split)
    lines = [msgspec.json.encode(msgspec.structs.replace(said, split=split)) + b"\n" for split, _, said in rows]
    import hashlib

    import zstandard

    data = zstandard.compress(b"".join(lines))
    (target / CONVERSATIONS).write_bytes(data)
    about["conversations"] = {"file": CONVERSATIONS, "sha256": hashlib.sha256(data).hexdigest()}
    manifest = Manifest.read(target / "manifest.json")
    msgspec.structs.replace(manifest, about=about).write(target / "manifest.json")
    return target


def changed(example: Example, *, tokens: Any = None, mask: Any = None, shift: int = 0, **meta: Any) -> Example:
    """The example with other tokens or another mask, and what it says of itself in accord with them."""
    tokens = np.asarray(example.tokens if tokens is None else tokens, np.int32)
    mask = np.asarray(example.loss_mask if mask is None else mask, np.uint8)
    steps = [span[2] for span in example.meta["spans"]]
    spans = [[start, end, step] for (start, end), step in zip(runs_of(mask), [*steps, *[9] * 9], strict=False)]
    told = {**example.meta, "spans": spans, "digest": digest_of(tokens, mask), **meta}
    logprobs = np.full(len(tokens), np.nan, np.float32)
    return msgspec.structs.replace(example, tokens=tokens, loss_mask=mask, logprobs=logprobs, meta=told)


def first(change: Callable[[Example], Example]) -> Callable[[Rows], Rows]:
    def rows(rows: Rows) -> Rows:
        split, example, said = rows[0]
        return [(split, change(example), said), *rows[1:]]

    return rows


def masked(change: Callable[[Any, Example], None]) -> Callable[[Rows], Rows]:
    def example(example: Example) -> Example:
        mask = example.loss_mask.copy()
        change(mask, example)
        return changed(example, mask=mask)

    return first(example)


def shift(mask: Any, example: Example) -> None:
    mask[:] = np.concatenate([mask[1:], [0]])


def leave_out_the_end(mask: Any, example: Example) -> None:
    for _, end in runs_of(mask.copy()):
        mask[end - 1] = 0


def train_tool_output(mask: Any, example: Example) -> None:
    start = example.meta["spans"][0][1]
    end = next(at for at in range(start, len(mask)) if example.tokens[at] in chat().end_of_turn)
    mask[start : end + 1] = 1


def train_guidance(mask: Any, example: Example) -> None:
    start, end, _ = example.meta["guidance_kept"][0]
    mask[start + 1 : end] = 1


def train_the_system_prompt(mask: Any, example: Example) -> None:
    mask[1:9] = 1


def train_context_only(mask: Any, example: Example) -> None:
    start, end, *_ = example.meta["context_only"][0]
    mask[start:end] = 1


def train_across(mask: Any, example: Example) -> None:
    mask[example.meta["spans"][0][0] : example.meta["spans"][1][1]] = 1


def train_half(mask: Any, example: Example) -> None:
    start, end, _ = example.meta["spans"][0]
    mask[start : start + (end - start) // 2] = 0


def train_nothing_more(mask: Any, example: Example) -> None:
    start, end, _ = example.meta["spans"][-1]
    mask[start:end] = 0


def cut_at_the_end(example: Example) -> Example:
    return changed(example, tokens=example.tokens[:-4], mask=example.loss_mask[:-4])


def cut_at_the_front(example: Example) -> Example:
    gone = 6
    moved = {
        key: [[start - gone, end - gone, *rest] for start, end, *rest in example.meta[key]]
        for key in ("context_only", "guidance_kept")
    }
    prompt = example.meta["prompt"] - gone
    return changed(example, tokens=example.tokens[gone:], mask=example.loss_mask[gone:], prompt=prompt, **moved)


def beyond(example: Example) -> Example:
    tokens = example.tokens.copy()
    tokens[-2] = chat().vocabulary
    return changed(example, tokens=tokens)


def another_word(example: Example) -> Example:
    tokens = example.tokens.copy()
    start = example.meta["spans"][1][0]
    tokens[start + 2], tokens[start + 3] = tokens[start + 3], tokens[start + 2]
    return changed(example, tokens=tokens)


def twice(rows: Rows) -> Rows:
    split, example, said = rows[0]
    again = msgspec.structs.replace(example, id="again/0")
    return [*rows, (split, again, msgspec.structs.replace(said, id="again/0"))]


def same_task(rows: Rows) -> Rows:
    _, example, said = rows[1]
    return [rows[0], ("validation", changed(example, task_id=rows[0][1].meta["task_id"]), said)]


def other_messages(rows: Rows) -> Rows:
    split, example, said = rows[0]
    loss = [1 - flag if told["role"] == "assistant" else 0 for told, flag in zip(said.messages, said.loss, strict=True)]
    return [(split, example, msgspec.structs.replace(said, loss=loss)), *rows[1:]]


FAULTS: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "mask shifted by one": (masked(shift), "a token that is not the assistant's is trained"),
    "end of turn left out": (masked(leave_out_the_end), "the end-of-turn token is not in the trained span"),
    "tool output trained": (masked(train_tool_output), "a token that is not the assistant's is trained"),
    "guidance trained": (masked(train_guidance), "a token that is not the assistant's is trained"),
    "system prompt trained": (masked(train_the_system_prompt), "a token that is not the assistant's is trained"),
    "context-only answer trained": (masked(train_context_only), "the messages that are trained are not the spans"),
    "span across turns": (masked(train_across), "a trained span goes across turns"),
    "half an answer trained": (masked(train_half), "only a part of an answer is trained"),
    "untrained tail": (masked(train_nothing_more), "the example does not end with a trained answer"),
    "truncated at the end": (first(cut_at_the_end), "the end-of-turn token is not in the trained span"),
    "truncated at the front": (first(cut_at_the_front), "the prompt is not what the chat template writes"),
    "token beyond the vocabulary": (first(beyond), "a token id beyond the vocabulary"),
    "other tokens than the engine's": (first(another_word), "an answer is not the engine's"),
    "duplicated example": (twice, "an example is there twice"),
    "answer trained twice": (twice, "an answer is trained twice"),
    "task in two splits": (same_task, "a task is in two splits"),
    "messages of other answers": (other_messages, "the messages that are trained are not the spans"),
}


def test_what_was_built_is_proven(good: Path, tmp_path: Path) -> None:
    found = verify(good, chat())
    assert found.ok and found.compared == 2 and found.trained_answers == 8
    assert verify(planted(good, tmp_path / "same", lambda rows: rows), chat()).ok


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(good: Path, tmp_path: Path, fault: str) -> None:
    change, expected = FAULTS[fault]
    found = verify(planted(good, tmp_path / "bad", change), chat())
    assert expected in found.faults, found.findings


@pytest.mark.parametrize("fault", [f for f in FAULTS if f != "other tokens than the engine's"])
def test_and_without_the_trajectories(good: Path, tmp_path: Path, fault: str) -> None:
    change, expected = FAULTS[fault]
    found = verify(planted(good, tmp_path / "bad", change), chat(), sources=False)
    assert expected in found.faults and found.compared == 0


def test_changed_bytes_of_a_shard_are_found(good: Path, tmp_path: Path) -> None:
    bad = planted(good, tmp_path / "bad", lambda rows: rows)
    shard = bad / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert "a shard is not the file that was built" in verify(bad, chat()).faults


def test_a_mask_changed_behind_the_builder_is_found(good: Path, tmp_path: Path) -> None:
    def change(example: Example) -> Example:
        return msgspec.structs.replace(changed(example), meta={**example.meta, "digest": "0" * 64})

    found = verify(planted(good, tmp_path / "bad", first(change)), chat())
    assert "tokens or mask are not those that were built" in found.faults


def test_another_tokenizer_is_found(good: Path, tmp_path: Path) -> None:
    model = copied(tmp_path / "model")
    value = json.loads((model / "tokenizer.json").read_text())
    vocabulary = value["model"]["vocab"]
    one, two = list(vocabulary)[70:72]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (model / "tokenizer.json").write_text(json.dumps(value))
    assert "another tokenizer or chat template" in verify(good, Chat(model)).faults


def test_another_template_is_found_by_what_it_writes(good: Path, tmp_path: Path) -> None:
    model = copied(tmp_path / "model")
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("'<|system|>'", "'<|system|>\n'"))
    found = verify(good, Chat(model))
    assert "the prompt is not what the chat template writes" in found.faults


def test_a_changed_trajectory_is_not_compared_but_named(good: Path, tmp_path: Path) -> None:
    found: Verified = verify(planted(good, tmp_path / "same", _elsewhere), chat())
    assert found.ok and found.not_compared == {"the manifest does not name its source": 1}


def _elsewhere(rows: Rows) -> Rows:
    split, example, said = rows[0]
    return [(split, changed(example, source=77), said), *rows[1:]]
