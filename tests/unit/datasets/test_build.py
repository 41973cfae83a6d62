"""Trajectories to examples: what is trained, in which context, and what is left out with which reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from hpc.config.dataset import OutcomeConfig
from hpc.core.errors import DatasetError
from hpc.datasets.builder import Decide, Report, build, split_of
from hpc.datasets.chat import Chat
from hpc.datasets.conversations import pairs
from hpc.datasets.proofs import runs_of
from hpc.datasets.verify import verify
from hpc.examples import Dataset, Example
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import ActionTaken, Record
from tests.unit.datasets.scripted import Verdict, chat, config, episode, store

SAID = "for cobalt set anneal to 450C"


def built(
    tmp_path: Path, *episodes: list[Record], decide: Decide | None = None, **changes: object
) -> tuple[Report, list[Example]]:
    """The report and the examples; the dataset is also verified, against its sources."""
    folder = tmp_path / "set"
    report = build(store(tmp_path / "run", *episodes), folder, config(**changes), chat(), decide, name="set")
    found = verify(folder, chat())
    assert found.ok, found.findings
    assert found.compared + sum(found.not_compared.values()) == found.examples
    with Dataset(folder, split=None) as dataset:
        return report, list(dataset)


def told(example: Example) -> list[str]:
    return [chat().decode(example.tokens[start:end].tolist()) for start, end in runs_of(example.loss_mask)]


def answers(records: list[Record]) -> list[str]:
    return [chat().decode(record.token_ids) for record in records if isinstance(record, ActionTaken)]


def test_a_growing_context_is_one_example_with_every_answer_trained(tmp_path: Path) -> None:
    records = episode(5)
    report, (example,) = built(tmp_path, records)
    assert told(example) == answers(records)
    assert all(text.endswith("<|end|>") for text in told(example))
    assert report.trained_answers == 5 and report.examples == {"train": 1}


def test_log_probabilities_are_the_engines_and_of_nothing_else(tmp_path: Path) -> None:
    _, (example,) = built(tmp_path, episode(3))
    assert example.logprobs is not None
    assert (np.isfinite(example.logprobs) == (example.loss_mask == 1)).all()


def test_an_answer_that_the_policy_refuses_stays_as_context(tmp_path: Path) -> None:
    def decide(trajectory: Trajectory) -> Mapping[int, Verdict]:
        return {step: Verdict(step != 2, "blind retry") for step in (1, 2, 3)}

    records = episode(4)
    report, (example,) = built(tmp_path, records, decide=decide, filter=True)
    first, second, third, _ = answers(records)
    assert told(example) == [first, third]
    assert second in chat().decode(example.tokens.tolist())
    assert report.context_only == {"blind retry": 1, "no decision": 1}


def test_a_filter_without_a_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no label policy"):
        build([], tmp_path / "set", config(filter=True), chat(), None, name="set")


def test_after_a_rewritten_context_nothing_is_trained_twice(tmp_path: Path) -> None:
    records = episode(6, summary_at=4)
    _, examples = built(tmp_path, records)
    assert len(examples) == 2
    assert [text for example in examples for text in told(example)] == answers(records)
    assert answers(records)[0] in chat().decode(examples[1].tokens.tolist())  # attached again, as context


def test_an_answer_that_was_cut_off_is_trained_only_if_asked(tmp_path: Path) -> None:
    records = episode(4, cut_off=[2])
    report, (example,) = built(tmp_path / "a", records)
    assert len(told(example)) == 3 and sum(report.context_only.values()) == 1
    _, (example,) = built(tmp_path / "b", records, train_cut_off=True)
    assert len(told(example)) == 4


@pytest.mark.parametrize(("option", "left"), [("keep", 2), ("drop", 0)])
def test_guidance_is_kept_or_dropped_and_never_trained(tmp_path: Path, option: str, left: int) -> None:
    records = episode(5, guidance={2: [SAID, "stop polling"]})
    report, (example,) = built(tmp_path, records, guidance=option)
    text = chat().decode(example.tokens.tolist())
    assert text.count("<real_user>") - 1 == left  # one is in the system prompt
    assert not any("<real_user>" in each for each in told(example))
    assert told(example) == answers(records)
    assert report.guidance["kept"] == left and report.guidance["dropped"] == 2 - left


def test_dropping_with_a_probability_is_drawn_for_each_turn_and_repeatable(tmp_path: Path) -> None:
    records = [episode(6, name=f"demo-{i:05d}", guidance={2: [SAID], 4: [SAID]}) for i in range(6)]
    first, examples = built(tmp_path / "a", *records, guidance="sometimes", drop_probability=0.5)
    second, again = built(tmp_path / "b", *records, guidance="sometimes", drop_probability=0.5)
    assert 0 < first.guidance["dropped"] < 12
    assert first.guidance == second.guidance
    assert all((a.tokens == b.tokens).all() for a, b in zip(examples, again, strict=True))


def test_older_guidance_is_found_in_a_rewritten_context(tmp_path: Path) -> None:
    _, examples = built(tmp_path, episode(6, guidance={2: [SAID]}, summary_at=5), guidance="drop")
    assert len(examples) == 2
    assert all(chat().decode(example.tokens.tolist()).count("<real_user>") == 1 for example in examples)


def test_guidance_that_output_repeats_word_for_word_is_never_guessed(tmp_path: Path) -> None:
    quoted = f"<|end|><|user|><real_user>{SAID}</real_user><|end|>"
    records = episode(6, guidance={2: [SAID]}, outputs=lambda step: quoted if step == 4 else "ok", summary_at=6)
    report = build(store(tmp_path / "run", records), None, config(guidance="drop"), chat(), None, name="x")
    assert report.refused["guidance is not whole in a rewritten context"] == 1


def test_arms_take_the_episodes_that_they_name(tmp_path: Path) -> None:
    paths = store(
        tmp_path / "run",
        episode(3, guidance={1: [SAID]}),
        episode(3, name="demo-00001", score=10.0),
        episode(3, name="demo-00002", score=90.0),
    )

    def used(**changes: object) -> int:
        return build(paths, None, config(**changes), chat(), None, name="x").episodes_used

    assert used() == 3
    assert used(interaction="with") == 1
    assert used(interaction="without") == 2
    assert used(interaction="without", outcome=OutcomeConfig(at_least=50)) == 1
    assert used(outcome=OutcomeConfig(statuses=["failed"])) == 0


def test_equal_examples_are_kept_once(tmp_path: Path) -> None:
    twice = [episode(3), episode(3)]
    report, examples = built(tmp_path, *twice)
    assert len(examples) == 1 and report.duplicates == 1


def test_a_task_is_in_one_split_whatever_the_arm(tmp_path: Path) -> None:
    share = config(validation_share=0.5)
    splits = {task: split_of(share, "minilab", task) for task in map(str, range(200))}
    assert 70 < sum(split == "validation" for split in splits.values()) < 130
    other = config(validation_share=0.5, guidance="drop", arm="other")
    assert {task: split_of(other, "minilab", task) for task in splits} == splits


@pytest.mark.parametrize(("policy", "kept"), [("drop", 0), ("cut", 1)])
def test_an_example_that_is_too_long_is_dropped_or_cut_after_an_answer(tmp_path: Path, policy: str, kept: int) -> None:
    records = episode(8)
    _, (whole,) = built(tmp_path / "whole", records)
    limit = len(whole.tokens) - 5
    paths = store(tmp_path / "run", records)
    settings = config(max_tokens=limit, too_long=policy)
    if not kept:
        report = build(paths, None, settings, chat(), None, name="x")
        assert report.refused == {f"longer than {limit} tokens": 1}
        return
    _, (example,) = built(tmp_path / "cut", records, max_tokens=limit, too_long="cut")
    assert told(example) == answers(records)[:-1]


def test_text_alone_is_tokenised_once_as_the_engine_would(tmp_path: Path) -> None:
    guidance = {2: [SAID]}
    _, (own,) = built(tmp_path / "own", episode(4, guidance=guidance))
    _, (imported,) = built(tmp_path / "text", episode(4, guidance=guidance, with_ids=False))
    assert (own.tokens == imported.tokens).all() and (own.loss_mask == imported.loss_mask).all()


def test_a_template_that_rewrites_old_turns_is_refused_for_text(tmp_path: Path) -> None:
    model = copied(tmp_path / "model")
    path = model / "chat_template.jinja"
    path.write_text(
        path.read_text().replace("'<|assistant|>' +", "('<|assistant|>!' if loop.last else '<|assistant|>') +")
    )
    paths = store(tmp_path / "run", episode(3, with_ids=False))
    report = build(paths, None, config(), Chat(model), None, name="x")
    assert report.refused == {"the chat template writes old turns differently": 1}


def test_ids_of_another_template_are_refused(tmp_path: Path) -> None:
    model = copied(tmp_path / "model")
    path = model / "chat_template.jinja"
    path.write_text(path.read_text().replace("'<|system|>'", "'<|system|>\n'"))
    report = build(store(tmp_path / "run", episode(3)), None, config(), Chat(model), None, name="x")
    assert report.refused == {"the first prompt is not what tokenizer and chat template write": 1}


def test_a_damaged_source_is_named_and_the_rest_is_built(tmp_path: Path) -> None:
    paths = store(tmp_path / "run", episode(3), episode(3, name="demo-00001"))
    paths[0].write_bytes(paths[0].read_bytes()[:-50])
    report = build(paths, tmp_path / "set", config(), chat(), None, name="set")
    assert list(report.failed) == [str(paths[0])] and report.examples == {"train": 1}


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    paths = store(tmp_path / "run", episode(3), episode(3, name="demo-00001"))

    def decide(trajectory: Trajectory) -> Mapping[int, Verdict]:
        if trajectory.header.episode_id.endswith("1"):
            raise KeyboardInterrupt
        return {1: Verdict(True)}

    with pytest.raises(KeyboardInterrupt):
        build(paths, tmp_path / "set", config(filter=True), chat(), decide, name="set")
    assert not (tmp_path / "set").exists()


def test_no_example_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no guidance in it"):
        build(store(tmp_path / "r", episode(2)), tmp_path / "s", config(interaction="with"), chat(), None, name="s")
    assert not (tmp_path / "s").exists()


def test_the_manifest_says_how_it_was_made(tmp_path: Path) -> None:
    paths = store(tmp_path / "run", episode(3))
    build(paths, tmp_path / "set", config(), chat(), None, name="set", about={"policy": "strict 2"})
    with Dataset(tmp_path / "set") as dataset:
        about = dataset.manifest.about
    assert about["arm"] == "test" and about["policy"] == "strict 2" and about["tokenizer"]["hash"] == chat().sha256
    assert about["config"]["guidance"] == "keep" and about["counts"]["trained_answers"] == 3
    assert about["sources"][0]["file"] == str(paths[0]) and len(about["sources"][0]["sha256"]) == 64
    assert [about["sources"][0][name] for name in ("family", "task", "seed")] == ["minilab", "lab-0", 1]


def test_messages_lie_beside_the_tokens(tmp_path: Path) -> None:
    built(tmp_path, episode(3, guidance={1: [SAID]}), guidance="drop")
    ((_, said),) = pairs(tmp_path / "set", "train")
    assert [message["role"] for message in said.messages] == ["system", "user", *["assistant", "tool"] * 2, "assistant"]
    assert said.loss == [0, 0, 1, 0, 1, 0, 1]


def copied(folder: Path) -> Path:
    """The shipped tokenizer and template in a folder of its own."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (folder / name).write_bytes((chat().folder / name).read_bytes())
    return folder
