"""Reading inspect_ai's eval logs, ours and others', through inspect_ai itself (extra ``inspect``): it knows
every version of its format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from hpc.core.errors import HpcError, MissingExtra, TrajectoryIncomplete, TrajectoryLayoutError
from hpc.trajectories.exchange import foreign
from hpc.trajectories.exchange.chat import LOST_ON_IMPORT
from hpc.trajectories.exchange.conversation import KEY, Mismatch, records_of
from hpc.trajectories.exchange.inspect_eval import FORMAT, LOSSES
from hpc.trajectories.exchange.source import UNKNOWN_TIME, adopted, episode_id_of, imported_header
from hpc.trajectories.records import Origin, OutcomeReached, Record


def read(path: Path, *, sha256: str) -> Iterator[tuple[str, list[Record] | HpcError]]:
    """Each sample's name and records, or the error that it is.

    Raises:
        MissingExtra: inspect_ai is not installed.
        TrajectoryLayoutError: not an eval log.
        TrajectoryIncomplete: absent, empty or truncated.
    """
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise TrajectoryIncomplete(f"cannot read {path}: {error.strerror}", "check the name") from error
    if empty:
        raise TrajectoryIncomplete(f"{path} is empty", "fetch it again")
    log = _inspect()
    try:
        header = log.read_eval_log(str(path), header_only=True)
        summaries = log.read_eval_log_sample_summaries(str(path))
    except Exception as error:  # whatever a ZIP, JSON or pydantic raises
        raise TrajectoryLayoutError(f"{path} is not an eval log: {_line(error)}", "fetch it again") from error
    if not summaries:
        raise TrajectoryIncomplete(f"{path} has no samples", "name another log")
    for summary in summaries:
        entry = f"sample {summary.id} epoch {summary.epoch}"
        origin = Origin(format=FORMAT, file=str(path), sha256=sha256, entry=entry)
        try:
            sample = log.read_eval_log_sample(str(path), summary.id, summary.epoch, resolve_attachments=True)
        except Exception as error:
            yield entry, TrajectoryIncomplete(f"{path}: {entry} is damaged: {_line(error)}", "fetch it again")
            continue
        try:
            yield entry, _records(header, sample, origin, f"{path}: {entry}")
        except HpcError as error:
            yield entry, error


def _inspect() -> Any:
    try:
        import inspect_ai.log
    except ImportError as error:
        raise MissingExtra("eval logs are read with inspect_ai", "pip install 'apollo-hpc[inspect]'") from error
    return inspect_ai.log


def _records(log: Any, sample: Any, origin: Origin, where: str) -> list[Record]:
    remainders = _remainders(sample)
    if remainders:
        try:
            records = _ours(sample, remainders)
        except (ValueError, TypeError, AttributeError) as error:  # `Mismatch`, or not what we write
            note = f"the metadata of this project, because the messages were changed since: {error}"
            origin = replace(origin, lost=[*origin.lost, note])
        else:
            return adopted(records, replace(origin, lost=[loss.what for loss in LOSSES]))
    return _foreign(log, sample, origin, where)


# ---- ours -------------------------------------------------------------------------------------


def _remainders(sample: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for metadata in (sample.metadata, *(message.metadata for message in sample.messages)):
        kept = (metadata or {}).get(KEY)
        if isinstance(kept, list) and all(isinstance(remainder, dict) for remainder in kept):
            found += kept
    return found


def _ours(sample: Any, remainders: list[dict[str, Any]]) -> list[Record]:
    header = remainders[0]
    if header.get("type") != "header":
        raise Mismatch("there is no header")
    prompt, tools = int(header.get("prompt", 0)), header.pop("tools", [])
    written = [_message(message) for message in sample.messages]
    answers = iter([remainder for remainder in remainders if remainder.get("type") == "action"])
    for message in written[prompt:]:
        calls = next(answers, {}).get("tool_calls") if message["role"] == "assistant" else None
        if calls:
            message["tool_calls"] = calls[:1]
    return records_of(header.pop("messages", written[:prompt]) + written[prompt:], tools, remainders)


def _message(message: Any) -> dict[str, Any]:
    """A message as OpenAI writes it."""
    said: dict[str, Any] = {"role": message.role, "content": message.text}
    calls = getattr(message, "tool_calls", None)
    if calls:
        said["tool_calls"] = [_call(call) for call in calls]
    return said


def _call(call: Any) -> dict[str, Any]:
    function = {"name": call.function, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": call.id, "type": "function", "function": function}


# ---- others' ----------------------------------------------------------------------------------


def _foreign(log: Any, sample: Any, origin: Origin, where: str) -> list[Record]:
    messages: Sequence[Any] = sample.messages
    first = next((i for i, message in enumerate(messages) if message.role == "assistant"), len(messages))
    odd, kept = _odd(messages[first:])
    origin = replace(origin, lost=[*origin.lost, *LOST_ON_IMPORT[:1], *odd], extra=_about(log, sample) | kept)
    try:
        steps = foreign.steps_of(_turns(messages, first), episode_id=episode_id_of(origin))
    except foreign.NotSteps as error:
        raise TrajectoryLayoutError(f"{where} cannot be steps: {error}", "it may be of several agents") from error
    header = imported_header(
        origin,
        task_id=f"{log.eval.task}/{sample.id}",
        created_at=_time(sample.started_at),
        messages=[_message(message) for message in messages[:first]],
    )
    return [header, *steps, _outcome(sample, steps)]


def _turns(messages: Sequence[Any], first: int) -> Iterator[foreign.Said | foreign.Heard | foreign.Told]:
    for number, message in enumerate(messages[first:], start=first + 1):
        where = f"message {number}"
        if message.role == "assistant":
            calls = [_call(call) for call in message.tool_calls or []]
            yield foreign.Said(where=where, text=message.text, calls=calls, model=message.model or "")
        elif message.role == "tool":
            call, failed = message.tool_call_id or "", message.error is not None
            yield foreign.Heard(where=where, text=message.text, call_id=call, is_error=failed)
        elif message.role == "user":
            yield foreign.Told(where=where, text=message.text)
        else:
            raise foreign.NotSteps(f"{where} is of the role {message.role!r} after the first answer")


def _outcome(sample: Any, steps: list[Record]) -> OutcomeReached:
    outcome = replace(
        foreign.outcome_of(steps, at=_time(sample.completed_at)), working_seconds=sample.working_time or 0.0
    )
    if sample.error is not None:
        return replace(outcome, status="failed", reason=_line(sample.error.message))
    if sample.limit is not None:
        return replace(outcome, status="truncated", reason=f"limit of {sample.limit.type}: {sample.limit.limit}")
    return replace(outcome, status="finished", reason="the sample was completed")


def _about(log: Any, sample: Any) -> dict[str, Any]:
    """Of the log and the sample what has no place in our records."""
    about: dict[str, Any] = {
        "task": log.eval.task,
        "model": log.eval.model,
        "eval_id": log.eval.eval_id,
        "target": sample.target,
        "metadata": sample.metadata,
    }
    if sample.scores:
        about["scores"] = {name: score.model_dump(mode="json") for name, score in sample.scores.items()}
    return about


def _odd(messages: Sequence[Any]) -> tuple[list[str], dict[str, Any]]:
    lost = ["events, store and attachments of the sample; times of single steps", "scores (kept in origin.extra only)"]
    kept: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        parts = [] if isinstance(message.content, str) else message.content
        others = [part.model_dump(mode="json") for part in parts if part.type != "text"]
        if others:
            kept.append({"message": i, "parts": others})
    if kept:
        lost.append(f"reasoning, images and other parts of {len(kept)} messages (kept in origin.extra only)")
    return lost, {"message_parts": kept} if kept else {}


def _time(stamp: Any) -> float:
    try:
        return datetime.fromisoformat(str(stamp).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return UNKNOWN_TIME


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
