"""Arms of a dataset: which episodes, which actions, in which context."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc.config.dataset import DatasetConfig
from hpc.core.errors import DatasetError
from hpc.datasets.build import Builder, Source, build
from hpc.datasets.template import Template
from hpc.examples import Dataset, Example
from hpc.rundir import RunDir
from hpc.trajectories.labels import Decision
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import Record
from tests.unit.datasets.played import advice, played, store


def sources(run: RunDir, count: int) -> list[Source]:
    return [Source(f"run/{n}", run.trajectory(n), lambda n=n: Trajectory.open((run, n))) for n in range(count)]


def nothing(trajectory: Trajectory) -> Mapping[int, Decision]:
    return {}


def examples(
    template: Template, root: Path, *episodes: list[Record], decide: Any = nothing, **options: Any
) -> tuple[list[Example], Builder]:
    run = store(root, *episodes)
    builder = Builder(template, DatasetConfig(**options), decide)
    return [example for example, _ in builder.examples(sources(run, len(episodes)))], builder


def trained_text(template: Template, example: Example) -> list[str]:
    mask = example.loss_mask.astype(bool)
    return template.decode(example.tokens[mask].tolist()).split("<|end|>")[:-1]


def test_exactly_the_answers_are_trained(template: Template, tmp_path: Path) -> None:
    (example,), builder = examples(template, tmp_path, played(template))
    assert trained_text(template, example) == [f"step {n} of 0" for n in (1, 2, 3, 4)]
    assert example.meta["steps"] == [1, 2, 3, 4]
    assert example.logprobs is not None
    assert (~np.isnan(example.logprobs) == example.loss_mask.astype(bool)).all()
    assert builder.counts.steps == {"trained": 4}


def test_the_filter_keeps_sub_optimal_actions_in_the_context(template: Template, tmp_path: Path) -> None:
    def decide(trajectory: Trajectory) -> Mapping[int, Decision]:
        return {2: Decision(step=2, train=False, reason="rollback: undone")}

    (filtered,), builder = examples(template, tmp_path / "a", played(template), decide=decide)
    (everything,), _ = examples(template, tmp_path / "b", played(template), decide=decide, filter=False)
    assert filtered.tokens.tolist() == everything.tokens.tolist()
    assert trained_text(template, filtered) == [f"step {n} of 0" for n in (1, 3, 4)]
    assert trained_text(template, everything) == [f"step {n} of 0" for n in (1, 2, 3, 4)]
    assert builder.counts.steps == {"trained": 3, "rollback": 1}


def test_guidance_is_dropped_to_the_token(template: Template, tmp_path: Path) -> None:
    guidance = (advice(1), advice(2, "no, ice"), advice(2, "and press harder", 2))
    (kept,), _ = examples(template, tmp_path / "a", played(template, guidance=guidance))
    (dropped,), builder = examples(template, tmp_path / "b", played(template, guidance=guidance), guidance="drop")
    (never,), _ = examples(template, tmp_path / "c", played(template))
    assert "<real_user>use the salt bath</real_user>" in template.decode(kept.tokens.tolist())
    assert dropped.tokens.tolist() == never.tokens.tolist()
    assert dropped.loss_mask.tolist() == never.loss_mask.tolist()
    assert builder.counts.guidance == {"dropped": 3, "kept": 0}
    assert dropped.logprobs is not None
    assert np.isnan(dropped.logprobs[-1])  # the engine saw another context


def test_half_of_the_turns_are_dropped_always_the_same_ones(template: Template, tmp_path: Path) -> None:
    guidance = tuple(advice(step, f"hint {step}") for step in range(1, 30))
    texts = []
    for name in "ab":
        episode = played(template, steps=30, guidance=guidance)
        (example,), builder = examples(template, tmp_path / name, episode, guidance="random", drop_probability=0.5)
        texts.append(template.decode(example.tokens.tolist()))
        assert 5 < builder.counts.guidance["dropped"] < 24
    assert texts[0] == texts[1]
    episode = played(template, steps=30, guidance=guidance)
    (other,), _ = examples(template, tmp_path / "c", episode, guidance="random", seed=2)
    assert template.decode(other.tokens.tolist()) != texts[0]


@pytest.mark.parametrize("options", [{"guidance": "drop"}, {"guidance": "random", "drop_probability": 1.0}], ids=str)
def test_guidance_is_dropped_from_rewritten_contexts_too(
    template: Template, tmp_path: Path, options: dict[str, Any]
) -> None:
    guidance = (advice(1), advice(2, "no, ice"))
    played_with = played(template, elide=True, guidance=guidance)
    dropped, _ = examples(template, tmp_path / "a", played_with, **options)
    never, _ = examples(template, tmp_path / "b", played(template, elide=True))
    assert len(dropped) > 2
    assert [one.tokens.tolist() for one in dropped] == [one.tokens.tolist() for one in never]
    assert [one.loss_mask.tolist() for one in dropped] == [one.loss_mask.tolist() for one in never]


def test_a_summary_without_the_guidance_is_taken_and_one_that_quotes_it_refuses_the_episode(
    template: Template, tmp_path: Path
) -> None:
    silent = played(template, steps=5, rewrite_at=4, guidance=(advice(1),))
    found, _ = examples(template, tmp_path / "a", silent, guidance="drop")
    assert [example.meta["steps"] for example in found] == [[1, 2, 3], [4, 5]]
    quoting = played(template, steps=5, rewrite_at=4, guidance=(advice(1),), summary="she said: use the salt bath!")
    found, builder = examples(template, tmp_path / "b", quoting, guidance="drop")
    assert not found and builder.counts.episodes == {"refused: NotFound": 1}


def test_the_manifest_names_the_tokenizer_as_the_trainer_compares_it(template: Template) -> None:
    about = Builder(template, DatasetConfig(), nothing).about({})
    file = template.folder / "tokenizer.json"
    assert about["tokenizer"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_added_token_in_an_answer_is_not_its_end(template: Template, tmp_path: Path) -> None:
    folder = tmp_path / "thinking"
    shutil.copytree(template.folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    jinja = folder / "chat_template.jinja"
    said = "{{- '<|assistant|>' + (message.content or '') -}}"
    assert said in jinja.read_text()
    thinks = said.replace("(message", "('<tool_call></tool_call>' if loop.last else '') + (message")
    jinja.write_text(jinja.read_text().replace(said, thinks))
    assert Template(folder).end == template.end


def test_guidance_that_is_not_where_it_should_be_refuses_the_episode(template: Template, tmp_path: Path) -> None:
    records = played(template, guidance=(advice(1),))
    wrong = [advice(1, "something else") if record == advice(1) else record for record in records]
    found, builder = examples(template, tmp_path, wrong, guidance="drop")
    assert found == []
    assert builder.counts.episodes == {"refused: NotFound": 1}


def test_a_summary_begins_a_segment_and_trains_nothing_twice(template: Template, tmp_path: Path) -> None:
    found, _ = examples(template, tmp_path, played(template, steps=5, rewrite_at=4))
    assert [example.meta["steps"] for example in found] == [[1, 2, 3], [4, 5]]
    assert [example.id for example in found] == ["run-00000#0", "run-00000#1"]


def test_a_cut_off_answer_is_not_trained(template: Template, tmp_path: Path) -> None:
    found, builder = examples(template, tmp_path, played(template, cut_off_at=2))
    assert [step for example in found for step in example.meta["steps"]] == [1, 3, 4]
    assert builder.counts.steps["the answer was cut off"] == 1


@pytest.mark.parametrize(
    ("options", "taken", "counted"),
    [
        ({"interaction": "guided"}, [1], {"taken": 1, "no guidance": 2}),
        ({"interaction": "unguided"}, [0, 2], {"taken": 2, "guidance": 1}),
        ({"min_score": 60}, [2], {"taken": 1, "score below 60": 2}),
        ({"statuses": ("truncated",)}, [1], {"taken": 1, "status finished": 2}),
    ],
)
def test_which_episodes_are_taken(
    template: Template, tmp_path: Path, options: dict[str, Any], taken: list[int], counted: dict[str, int]
) -> None:
    episodes = [
        played(template, index=0, score=10.0),
        played(template, index=1, score=20.0, guidance=(advice(1),), status="truncated"),
        played(template, index=2, score=90.0),
    ]
    found, builder = examples(template, tmp_path, *episodes, **options)
    assert [example.meta["episode_id"] for example in found] == [f"run-{index:05d}" for index in taken]
    assert builder.counts.episodes == counted


def test_texts_without_ids_are_tokenised_once(template: Template, tmp_path: Path) -> None:
    (example,), _ = examples(template, tmp_path / "a", played(template, tokens=False))
    (engine,), _ = examples(template, tmp_path / "b", played(template))
    assert trained_text(template, example) == trained_text(template, engine)
    assert example.tokens.tolist()[: len(engine.tokens)] == engine.tokens.tolist()
    refused, builder = examples(
        template, tmp_path / "c", played(template, tokens=False, guidance=(advice(1),)), guidance="drop"
    )
    assert not refused
    assert builder.counts.episodes == {"refused: NotFound": 1}


def test_duplicates_and_long_ones_are_left_out_and_counted(template: Template, tmp_path: Path) -> None:
    found, builder = examples(template, tmp_path / "a", played(template), played(template))
    assert len(found) == 1
    assert builder.counts.examples == {"written": 1, "duplicate": 1}
    found, builder = examples(template, tmp_path / "b", played(template), max_tokens=20)
    assert not found
    assert builder.counts.examples == {"too long": 1}


def test_tasks_are_split_by_hash_whole(template: Template, tmp_path: Path) -> None:
    episodes = [played(template, index=n, task=f"task-{n // 2}") for n in range(20)]
    run = store(tmp_path, *episodes)
    builder = Builder(template, DatasetConfig(validation_share=0.5), nothing)
    build(tmp_path / "d", builder, sources(run, 20), {"git": None}, lambda: None)
    with Dataset(tmp_path / "d", split="train") as train, Dataset(tmp_path / "d", split="validation") as other:
        tasks = [{str(example.meta["task_id"]) for example in split} for split in (train, other)]
        assert not tasks[0] & tasks[1]
        assert len(train) + len(other) == 20
        about = train.manifest.about
    assert about["dataset"]["validation_share"] == 0.5
    assert len(about["sources"]) == 20
    assert about["counts"]["episodes"] == {"taken": 20}


def test_a_dataset_with_nothing_to_train_is_refused_and_leaves_nothing(template: Template, tmp_path: Path) -> None:
    run = store(tmp_path, played(template))
    builder = Builder(template, DatasetConfig(min_score=99), nothing)
    with pytest.raises(DatasetError, match="1 score below 99"):
        build(tmp_path / "d", builder, sources(run, 1), {}, lambda: None)
    assert not (tmp_path / "d").exists()


def test_a_tokenizer_without_a_template_or_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no tokenizer"):
        Template(tmp_path)


def test_rollouts_carry_their_advantage_over_the_others_of_their_task(template: Template, tmp_path: Path) -> None:
    scores = {"a": (10.0, 30.0), "b": (50.0, 50.0), "c": (0.0, None)}
    episodes = [
        played(template, index=2 * n + m, task=task, score=score)
        for n, (task, pair) in enumerate(scores.items())
        for m, score in enumerate(pair)
    ]
    found, builder = examples(template, tmp_path, *episodes, filter=False, rewards="score", deduplicate=False)
    assert [example.meta["episode_id"] for example in found] == ["run-00000", "run-00001"]
    for example, sign in zip(found, (-1.0, 1.0), strict=True):
        assert example.advantages is not None
        mask = example.loss_mask.astype(bool)
        assert example.advantages[mask] == pytest.approx(sign, abs=1e-4)
        assert not example.advantages[~mask].any()
        assert example.logprobs is not None
        assert not np.isnan(example.logprobs[mask]).any()
    assert builder.counts.episodes == {"taken": 2, "no difference in its group": 4}
    assert builder.about({})["mean_reward"] == pytest.approx(0.28)
    with pytest.raises(ValueError, match="must be keep"):
        DatasetConfig(rewards="score", guidance="drop")
