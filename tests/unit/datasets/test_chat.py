"""Tokenizer and chat template: rendered as transformers does, and turns found in templates of other kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpc.core.errors import DatasetError
from hpc.datasets.builder import build
from hpc.datasets.chat import Chat, TemplateError
from hpc.datasets.proofs import runs_of
from hpc.datasets.verify import verify
from hpc.examples import Dataset
from tests.unit.datasets.scripted import TOOLS, chat, config, episode, store
from tests.unit.datasets.test_build import copied

ARGUMENTS = '{"say": "größer < 5", "n": [1, 2.5]}'
CALL: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "run", "arguments": ARGUMENTS}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Go on.  "},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "done <|end|>"},
]
QWEN_LIKE = """\
{%- for message in messages %}
    {%- if loop.first and tools %}
        {{- '<|system|>' + (tools | map('tojson') | join('\\n')) + '<|end|>\\n' }}
    {%- endif %}
    {%- if message.role == 'assistant' and loop.index0 > 1 %}{% continue %}{%- endif %}
    {{- '<|' + message.role + '|>' + (message.content or '') + '<|end|>\\n' }}
    {%- for call in message.tool_calls or [] %}
        {{- call.function | tojson(indent=2) }}
    {%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""
ENDS_BY_THE_NEXT_ROLE = """\
{%- for message in messages -%}
{{- '<|' + message.role + '|>' + (message.content or message.tool_calls | tojson) -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def with_template(folder: Path, template: str, ends: list[str] | None = None) -> Chat:
    copied(folder)
    (folder / "chat_template.jinja").write_text(template)
    if ends is not None:
        ids = [chat().encode(token)[0] for token in ends]
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
        (folder / "tokenizer_config.json").write_text("{}")
    return Chat(folder)


def test_it_is_rendered_as_transformers_renders_it(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    call = {**CALL, "function": {"name": "run", "arguments": json.loads(ARGUMENTS)}}
    as_objects = [{**told, "tool_calls": [call]} if "tool_calls" in told else told for told in MESSAGES]
    other = with_template(tmp_path / "other", QWEN_LIKE)
    for ours in (chat(), other):
        theirs = PreTrainedTokenizerFast.from_pretrained(ours.folder)
        for messages, objects in ((MESSAGES[:2], as_objects[:2]), (MESSAGES, as_objects)):
            for answer in (False, True):
                told = theirs.apply_chat_template(objects, tools=TOOLS, tokenize=False, add_generation_prompt=answer)
                text = ours.render(messages, TOOLS, answer=answer)
                assert text == told
                assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
                assert ours.decode(ours.encode(text)) == text


def test_a_turn_that_changes_older_turns_is_told(tmp_path: Path) -> None:
    odd = with_template(
        tmp_path / "odd", "{{ messages | length }}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(TemplateError, match="differently"):
        odd.added(MESSAGES[:2], MESSAGES[3])


def test_turns_that_the_next_role_ends(tmp_path: Path) -> None:
    model = with_template(tmp_path / "model", ENDS_BY_THE_NEXT_ROLE, ["<|user|>", "<|tool|>"])
    records = episode(4, with_ids=False)
    settings = config(model=str(model.folder))
    report = build(store(tmp_path / "run", records), tmp_path / "set", settings, model, None, name="s")
    assert report.trained_answers == 4  # the tool's turn follows each
    with Dataset(tmp_path / "set") as dataset:
        example = dataset[0]
    assert all(example.tokens[end - 1] in model.end_of_turn for _, end in runs_of(example.loss_mask))
    found = verify(tmp_path / "set", model)
    assert found.ok, found.findings


@pytest.mark.parametrize("missing", ["tokenizer.json", "chat_template.jinja"])
def test_a_folder_that_lacks_a_part_is_refused(tmp_path: Path, missing: str) -> None:
    folder = copied(tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(DatasetError, match=missing.split(".")[0].replace("_", " ")):
        Chat(folder)
