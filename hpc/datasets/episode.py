"""One trajectory to examples: chosen, tokenised by the engine, masked, and each step of it proven."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hpc.config.dataset import DatasetConfig
from hpc.datasets.chat import Chat, Message, TemplateError
from hpc.datasets.conversations import Conversation
from hpc.datasets.guidance import Refused, Turn, draws, find, without
from hpc.datasets.imports import steps_of_text
from hpc.datasets.segments import Segment, StepIds, Verdict, fitting, judge, segments
from hpc.examples import Example
from hpc.trajectories.exchange.conversation import parts_of
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import ActionTaken, EpisodeHeader, GuidanceApplied

OTHER_WEIGHTS = "sampled from other weights"


class Made(msgspec.Struct, kw_only=True):
    """What an episode gave: examples with their conversations, and counts by reason of what it did not."""

    examples: list[tuple[Example, Conversation]] = []
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    context_only: Counter[str] = msgspec.field(default_factory=Counter)
    guidance: Counter[str] = msgspec.field(default_factory=Counter)
    cut: int = 0


def left_out(trajectory: Trajectory, config: DatasetConfig) -> str:
    """Why the arm does not take this episode; empty: it does."""
    outcome, wanted = trajectory.outcome, config.outcome
    if outcome is None:
        return "not ended"
    if config.interaction == "with" and not trajectory.guidance:
        return "no guidance in it"
    if config.interaction == "without" and trajectory.guidance:
        return "guidance in it"
    if config.versions and any(step.action.model not in config.versions for step in trajectory.steps):
        return OTHER_WEIGHTS
    if wanted.statuses and outcome.status not in wanted.statuses:
        return f"status {outcome.status}"
    if wanted.at_least is not None:
        score = outcome.final_score if wanted.score == "final" else outcome.best_score
        if score is None:
            return "no score"
        if score < wanted.at_least:
            return f"{wanted.score} score below {wanted.at_least:g}"
    return ""


def examples_of(
    trajectory: Trajectory, chat: Chat, config: DatasetConfig, verdicts: Mapping[int, Verdict] | None
) -> Made:
    """The examples of one episode.

    Args:
        verdicts: of the label policy, by step; None trains every whole answer.

    Raises:
        Refused: the episode as a whole cannot be proven.
    """
    header = trajectory.header
    turns_said, steps = _told(trajectory)
    ids = _ids(trajectory, chat, turns_said, steps)
    reasons = judge(ids, verdicts, chat.end_of_turn, train_cut_off=config.train_cut_off)
    made = Made()
    made.context_only.update(reason for reason in reasons.values() if reason)
    dropped = {each.id for each in trajectory.guidance if _drops(config, header.episode_id, each.id)}
    for segment in segments(ids, reasons):
        try:
            _prove(segment, chat)
            turns = find(segment, trajectory.guidance, chat, header.messages, header.tools, trajectory.step)
        except Refused as error:
            made.refused[error.reason] += 1
            continue
        short, kept = without(segment, turns, dropped)
        if config.max_tokens is not None and len(short.tokens) > config.max_tokens:
            fits = fitting(short, config.max_tokens) if config.too_long == "cut" else None
            if fits is None:
                made.refused[f"longer than {config.max_tokens} tokens"] += 1
                continue
            made.cut += 1
            short, kept = fits, [turn for turn in kept if turn.end <= len(fits.tokens)]
        if not _answers_stand_alone(short, chat):
            made.refused["a text in the context holds the template's words for an answer"] += 1
            continue
        made.guidance["dropped"] += len(turns) - len(kept)
        made.guidance["kept"] += len(kept)
        gone = [turn.id for turn in turns if turn.id in dropped]
        example = _example(trajectory, short, kept, gone, config)
        made.examples.append((example, _conversation(example.id, short, turns_said, dropped, header)))
    return made


class _Said(NamedTuple):
    """A message, the step whose answer or prompt it is part of, and the guidance that it is."""

    message: Message
    step: int
    guidance: str = ""


def _told(trajectory: Trajectory) -> tuple[list[_Said], list[ActionTaken]]:
    """The conversation, and the steps without their observations."""
    said: list[_Said] = []
    steps: list[ActionTaken] = []
    for part in parts_of(trajectory.records()):
        record = part.record
        name = record.id if isinstance(record, GuidanceApplied) else ""
        if isinstance(record, ActionTaken):
            steps.append(record)
            said += [_Said(message, record.step) for message in part.messages]
        else:
            said += [_Said(message, len(steps) + 1, name) for message in part.messages]
    return said, steps


def _ids(trajectory: Trajectory, chat: Chat, said: Sequence[_Said], steps: Sequence[ActionTaken]) -> list[StepIds]:
    header = trajectory.header
    with_ids = sum(bool(step.token_ids) for step in steps)
    if with_ids == 0:
        messages = [each.message for each in said]
        return steps_of_text(messages, [step.step for step in steps], chat, header.tools)
    if with_ids < len(steps):
        raise Refused("some steps have no token ids")
    ids = [StepIds(step.step, step.shared_tokens, step.new_prompt_ids, step.token_ids, step.logprobs) for step in steps]
    try:
        opening = chat.render(header.messages, header.tools, answer=True)
    except TemplateError as error:
        raise Refused("the chat template refuses the conversation", str(error)) from error
    if not _known(ids[0].new, chat) or chat.decode(ids[0].new) != opening:
        raise Refused("the first prompt is not what tokenizer and chat template write")
    return ids


def _drops(config: DatasetConfig, episode: str, guidance: str) -> bool:
    if config.guidance == "sometimes":
        return draws(config.seed, episode, guidance) < config.drop_probability
    return config.guidance == "drop"


def _known(ids: Sequence[int], chat: Chat) -> bool:
    return not ids or (min(ids) >= 0 and max(ids) < chat.vocabulary)


def _prove(segment: Segment, chat: Chat) -> None:
    """Every answer follows a generation prompt, and all ids are the tokenizer's."""
    if not _known(segment.tokens, chat):
        raise Refused("a token id beyond the vocabulary")
    width = len(chat.generation)
    for piece in segment.pieces:
        if segment.tokens[max(piece.start, piece.end - width) : piece.end] != chat.generation:
            raise Refused("a prompt does not end with the generation prompt", f"step {piece.step}")


def _answers_stand_alone(segment: Segment, chat: Chat) -> bool:
    """Whether the template's turns behind the first prompt are the engine's answers: an output that spells a
    generation prompt is tokenised as one, and nobody could tell it from an answer again."""
    begun = [start for start, _ in chat.answers_in(segment.tokens) if start >= segment.pieces[0].end]
    return begun == [answer.start for answer in segment.answers]


def _example(
    trajectory: Trajectory, segment: Segment, kept: Sequence[Turn], gone: Sequence[str], config: DatasetConfig
) -> Example:
    header, outcome = trajectory.header, trajectory.outcome
    tokens, mask = np.asarray(segment.tokens, np.int32), segment.mask()
    meta: dict[str, Any] = {
        "episode_id": header.episode_id,
        "task_id": header.task_id,
        "task_family": header.task_family,
        "run": header.run,
        "index": header.index,
        "segment": segment.number,
        "arm": config.arm,
        "status": outcome.status if outcome else "",
        "score": outcome.final_score if outcome else None,
        "ids": "engine" if trajectory.steps[0].action.token_ids else "text",
        "prompt": segment.pieces[0].end,
        "spans": [[answer.start, answer.end, answer.step] for answer in segment.answers if not answer.reason],
        "context_only": [
            [answer.start, answer.end, answer.step, answer.reason] for answer in segment.answers if answer.reason
        ],
        "guidance_kept": [list(turn) for turn in kept],
        "guidance_dropped": list(gone),
        "digest": digest_of(tokens, mask),
    }
    logprobs = np.asarray(segment.logprobs, np.float32)
    name = f"{header.episode_id}/{segment.number}"
    return Example(id=name, tokens=tokens, loss_mask=mask, logprobs=logprobs, meta=meta)


def digest_of(tokens: NDArray[np.int32], mask: NDArray[np.uint8]) -> str:
    """SHA-256 over tokens (little endian, 4 bytes each) and mask."""
    return hashlib.sha256(tokens.astype("<i4").tobytes() + mask.astype(np.uint8).tobytes()).hexdigest()


def _conversation(
    name: str, segment: Segment, said: Sequence[_Said], dropped: Collection[str], header: EpisodeHeader
) -> Conversation:
    if segment.number > 0:
        return Conversation(id=name)
    last = segment.answers[-1].step
    trained = {answer.step for answer in segment.trained}
    shown = [each for each in said if each.step <= last and each.guidance not in dropped]
    return Conversation(
        id=name,
        messages=[each.message for each in shown],
        loss=[
            int(place >= len(header.messages) and each.message["role"] == "assistant" and each.step in trained)
            for place, each in enumerate(shown)
        ],
        opening=len(header.messages),
        tools=header.tools,
    )
