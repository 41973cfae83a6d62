"""`verify` finds whatever is planted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hpc.config.dataset import DatasetConfig
from hpc.datasets.build import Builder, build
from hpc.datasets.template import Template
from hpc.datasets.verify import sample, trained_spans, verify
from hpc.examples import Dataset, DatasetWriter, Example
from tests.unit.datasets.played import advice, played, store
from tests.unit.datasets.test_build import nothing, sources

Change = Callable[[Example, Template], Example]


@pytest.fixture(scope="module")
def built(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify")
    episodes = [played(template, index=n, task=f"t{n}", guidance=(advice(2),)) for n in range(3)]
    builder = Builder(template, DatasetConfig(), nothing)
    build(root / "d", builder, sources(store(root, *episodes), 3), {}, lambda: None)
    return root / "d"


def rewritten(
    built: Path, target: Path, *, about: Any = None, split: Any = None, change: Any = None, copies: int = 1
) -> Path:
    with Dataset(built) as given, DatasetWriter(target, about={**given.manifest.about, **(about or {})}) as writer:
        for number, example in enumerate(given):
            altered = change(example) if change is not None and number == 1 else example
            for copy in range(copies if number == 1 else 1):
                one = msgspec.structs.replace(altered, id=f"{altered.id}{'' if not copy else f'-{copy}'}")
                writer.add(one, split=split(number, copy) if split else "train")
    return target


def masked(example: Example, change: Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], None]) -> Example:
    mask, tokens = example.loss_mask.copy(), example.tokens.copy()
    change(mask, tokens)
    return msgspec.structs.replace(example, loss_mask=mask, tokens=tokens)


def test_a_good_dataset_is_proven(built: Path, template: Template) -> None:
    proof = verify(built, template)
    assert proof.faults == []
    assert (proof.examples, proof.spans) == (3, 12)


def first_span(mask: np.ndarray[Any, Any]) -> tuple[int, int]:
    return trained_spans(mask)[0]


def shift(mask: Any, tokens: Any) -> None:
    mask[1:] = mask[:-1].copy()
    mask[0] = 0


def end_left_out(mask: Any, tokens: Any) -> None:
    mask[first_span(mask)[1] - 1] = 0


def tool_output(mask: Any, tokens: Any) -> None:
    (_, end), (start, _) = trained_spans(mask)[:2]
    mask[end + 1 : start - 1] = 1


def whole_context(mask: Any, tokens: Any) -> None:
    mask[1:] = 1


def half_an_answer(mask: Any, tokens: Any) -> None:
    start, _ = first_span(mask)
    mask[start : start + 1] = 0


def one_turn_and_the_next_header(mask: Any, tokens: Any) -> None:
    mask[first_span(mask)[1]] = 1


def other_template(mask: Any, tokens: Any) -> None:
    header = tokens[first_span(mask)[0] - 1]
    tokens[tokens == header] = tokens[0]


def beyond_the_vocabulary(mask: Any, tokens: Any) -> None:
    tokens[2] = 1023


def an_answer_less(mask: Any, tokens: Any) -> None:
    start, end = first_span(mask)
    mask[start:end] = 0


def nothing_left(mask: Any, tokens: Any) -> None:
    mask[:] = 0


FAULTS: dict[str, tuple[Any, set[str]]] = {
    "shifted mask": (shift, {"not an answer", "past the end", "no end of turn"}),
    "end of turn left out": (end_left_out, {"no end of turn"}),
    "tool output trained": (tool_output, {"not an answer"}),
    "everything trained": (whole_context, {"not an answer"}),
    "half an answer": (half_an_answer, {"not an answer"}),
    "past the end of the turn": (one_turn_and_the_next_header, {"past the end"}),
    "another template": (other_template, {"not an answer"}),
    "beyond the vocabulary": (beyond_the_vocabulary, {"vocabulary"}),
    "an answer less than said": (an_answer_less, {"spans"}),
    "nothing trained": (nothing_left, {"nothing trained"}),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_wrong_mask_is_found(built: Path, template: Template, tmp_path: Path, name: str) -> None:
    change, kinds = FAULTS[name]
    proof = verify(rewritten(built, tmp_path / "d", change=lambda example: masked(example, change)), template)
    assert proof.total >= 1
    assert {fault.kind for fault in proof.faults} & kinds
    assert {fault.example for fault in proof.faults} == {"run-00001#0"}


def test_guidance_trained_is_found(built: Path, template: Template, tmp_path: Path) -> None:
    def change(example: Example) -> Example:
        ids, _ = template.user_turn("<real_user>use the salt bath</real_user>")
        tokens = example.tokens.tolist()
        start = next(n for n in range(len(tokens)) if tokens[n : n + len(ids)] == ids)
        mask = example.loss_mask.copy()
        mask[start + 1 : start + len(ids)] = 1
        return msgspec.structs.replace(example, loss_mask=mask)

    assert verify(rewritten(built, tmp_path / "d", change=change), template).faults[0].kind == "not an answer"


def test_a_truncated_example_is_found(built: Path, template: Template, tmp_path: Path) -> None:
    def change(example: Example) -> Example:
        length = trained_spans(example.loss_mask)[-1][1] - 2
        return msgspec.structs.replace(
            example,
            tokens=example.tokens[:length],
            loss_mask=example.loss_mask[:length],
            logprobs=example.logprobs[:length],
        )

    kinds = {fault.kind for fault in verify(rewritten(built, tmp_path / "d", change=change), template).faults}
    assert "no end of turn" in kinds


def test_guidance_that_was_to_be_dropped_is_found(built: Path, template: Template, tmp_path: Path) -> None:
    options = {"dataset": {"guidance": "drop"}}
    kinds = {fault.kind for fault in verify(rewritten(built, tmp_path / "d", about=options), template).faults}
    assert kinds == {"guidance"}


def test_duplicates_and_tasks_in_two_splits_are_found(built: Path, template: Template, tmp_path: Path) -> None:
    twice = rewritten(built, tmp_path / "a", copies=2)
    assert {fault.kind for fault in verify(twice, template).faults} == {"duplicate"}
    both = rewritten(built, tmp_path / "b", copies=2, split=lambda n, copy: "validation" if copy else "train")
    assert {fault.kind for fault in verify(both, template).faults} == {"duplicate", "task in two splits"}


def test_changed_files_and_the_wrong_tokenizer_are_found(built: Path, template: Template, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "d")
    shard = tmp_path / "d" / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert "changed shard" in {fault.kind for fault in verify(tmp_path / "d", template).faults}
    shard.unlink()
    assert {"missing shard", "unreadable"} <= {fault.kind for fault in verify(tmp_path / "d", template).faults}
    other = rewritten(built, tmp_path / "e", about={"tokenizer": {"hash": "another"}})
    assert {fault.kind for fault in verify(other, template).faults} == {"tokenizer"}


def test_a_sample_shows_what_is_trained(built: Path, template: Template) -> None:
    with Dataset(built) as data:
        text = sample(data[0], template)
    green = [text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style)]
    assert green == [f"step {n} of 0<|end|>" for n in (1, 2, 3, 4)]
