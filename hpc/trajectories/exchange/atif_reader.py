"""Reading ATIF documents (see `hpc.trajectories.exchange.atif`), ours and others'."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import replace

from hpc.core.errors import HpcError, TrajectoryLayoutError
from hpc.trajectories.exchange import foreign
from hpc.trajectories.exchange.atif import FORMAT, openai_call, prompt_message
from hpc.trajectories.exchange.conversation import KEY, Mismatch, records_of
from hpc.trajectories.exchange.source import (
    UNKNOWN_TIME,
    adopted,
    episode_id_of,
    imported_header,
    parse_json,
    read_bytes,
    text_of,
)
from hpc.trajectories.records import ActionTaken, Origin, Record

_TAKEN = ("schema_version", "session_id", "agent", "steps")


class _Call(msgspec.Struct):
    tool_call_id: str
    function_name: str
    arguments: dict[str, Any]


class _Result(msgspec.Struct):
    source_call_id: str | None = None
    content: str | list[dict[str, Any]] | None = None


class _Observation(msgspec.Struct):
    results: list[_Result]


class _Metrics(msgspec.Struct):
    prompt_token_ids: list[int] | None = None
    completion_token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    extra: dict[str, Any] | None = None


class _Step(msgspec.Struct):
    source: Literal["system", "user", "agent"]
    message: str | list[dict[str, Any]]
    tool_calls: list[_Call] | None = None
    observation: _Observation | None = None
    metrics: _Metrics | None = None
    extra: dict[str, Any] | None = None


class _Agent(msgspec.Struct):
    tool_definitions: list[dict[str, Any]] | None = None


class _Document(msgspec.Struct):
    """What is read of a document; checked before anything is."""

    steps: Annotated[list[_Step], msgspec.Meta(min_length=1)]
    agent: _Agent | None = None
    extra: dict[str, Any] | None = None
    subagent_trajectories: list[dict[str, Any]] | None = None


def read(path: Path, *, sha256: str) -> Iterator[tuple[str, list[Record] | HpcError]]:
    """The one trajectory of an ATIF file.

    Raises:
        TrajectoryLayoutError: not an ATIF document, or its steps cannot be ours.
        TrajectoryIncomplete: absent, empty or truncated.
    """
    document = parse_json(read_bytes(path), path)
    yield "", records_of_document(document, Origin(format=FORMAT, file=str(path), sha256=sha256), str(path))


def is_document(value: Any) -> bool:
    """Whether a JSON value says that it is ATIF."""
    return isinstance(value, dict) and str(value.get("schema_version", "")).startswith("ATIF-v1.")


def records_of_document(document: Any, origin: Origin, where: str) -> list[Record]:
    """The records of a document.

    Raises:
        TrajectoryLayoutError: not an ATIF document, or its steps cannot be ours.
    """
    if not is_document(document):
        raise TrajectoryLayoutError(f"{where} is not ATIF: no `schema_version` of ATIF-v1", "name an ATIF file")
    steps = _checked(document, where)
    remainders = _remainders(document, steps)
    if remainders:
        try:
            return adopted(_ours(document, steps, remainders), origin)
        except (ValueError, TypeError, AttributeError) as error:  # `Mismatch`, or not what we write
            note = f"the metadata of this project, because the steps were changed since: {error}"
            origin = replace(origin, lost=[*origin.lost, note])
    return _foreign(document, steps, origin, where)


def _checked(document: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The steps, after a check of everything that is read below."""
    try:
        msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        raise TrajectoryLayoutError(f"{where} is not ATIF: {error}", "harbor's validator tells more") from error
    steps: list[dict[str, Any]] = document["steps"]
    return steps


# ---- ours -------------------------------------------------------------------------------------


def _remainders(document: dict[str, Any], steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for place in (document, *steps):
        kept = (place.get("extra") or {}).get(KEY) if isinstance(place.get("extra"), dict) else None
        if isinstance(kept, list) and all(isinstance(remainder, dict) for remainder in kept):
            found += kept
    return found


def _ours(document: dict[str, Any], steps: list[dict[str, Any]], remainders: list[dict[str, Any]]) -> list[Record]:
    """Raises `Mismatch` if steps and remainders do not belong together."""
    if remainders[0].get("type") != "header":
        raise Mismatch("there is no header")
    prompt = int(remainders[0].get("prompt", 0))
    messages = remainders[0].pop("messages", [prompt_message(step) for step in steps[:prompt]])
    answers = iter([remainder for remainder in remainders if remainder.get("type") == "action"])
    metrics: list[dict[str, Any]] = []
    for step in steps[prompt:]:
        messages += _messages(step, next(answers, {}) if step["source"] == "agent" else {})
        if step["source"] == "agent":
            metrics.append(step.get("metrics") or {})
    records = records_of(messages, (document.get("agent") or {}).get("tool_definitions") or [], remainders)
    told = iter(metrics)
    return [_with_tokens(record, next(told)) if isinstance(record, ActionTaken) else record for record in records]


def _messages(step: dict[str, Any], remainder: dict[str, Any]) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant" if step["source"] == "agent" else step["source"]}
    message["content"] = text_of(step.get("message"))
    calls = remainder.get("tool_calls", [openai_call(call) for call in step.get("tool_calls") or []])
    if calls:
        message["tool_calls"] = calls[:1]
    messages = [message]
    for result in (step.get("observation") or {}).get("results", []):
        content = text_of(result.get("content"))
        call = {"tool_call_id": str(calls[0].get("id", ""))} if calls else {}
        messages.append({"role": "tool" if calls else "user", "content": content, **call})
    return messages


def _with_tokens(taken: ActionTaken, metrics: dict[str, Any]) -> ActionTaken:
    more = metrics.get("extra") or {}
    return replace(
        taken,
        shared_tokens=more.get("shared_tokens", 0),
        new_prompt_ids=more.get("new_prompt_ids", []),
        token_ids=metrics.get("completion_token_ids") or [],
        logprobs=metrics.get("logprobs") or [],
    )


# ---- others' ----------------------------------------------------------------------------------


def _foreign(document: dict[str, Any], steps: list[dict[str, Any]], origin: Origin, where: str) -> list[Record]:
    answered = (i for i, step in enumerate(steps) if step["source"] == "agent" and not step.get("is_copied_context"))
    first = next(answered, len(steps))
    agent = document.get("agent") if isinstance(document.get("agent"), dict) else {}
    lost, kept = _odd(document, steps[first:])
    extra = {name: value for name, value in document.items() if name not in _TAKEN and value is not None}
    extra |= {"agent": {name: value for name, value in (agent or {}).items() if name != "tool_definitions"}, **kept}
    origin = replace(origin, lost=[*origin.lost, *lost], extra={**origin.extra, **extra})
    episode_id = str(document.get("trajectory_id") or document.get("session_id") or episode_id_of(origin))
    model = str((agent or {}).get("model_name") or "")
    try:
        records = foreign.steps_of(_turns(steps, first, model), episode_id=episode_id)
    except foreign.NotSteps as error:
        raise TrajectoryLayoutError(f"{where} cannot be steps: {error}", "mend the order of its steps") from error
    header = imported_header(
        origin,
        episode_id=episode_id,
        created_at=_time(steps[0]),
        messages=[prompt_message(step) for step in steps[:first]],
        tools=(agent or {}).get("tool_definitions") or [],
    )
    return [header, *records, foreign.outcome_of(records, at=_time(steps[-1]))]


def _turns(
    steps: list[dict[str, Any]], first: int, model: str
) -> Iterator[foreign.Said | foreign.Heard | foreign.Told]:
    for number, step in enumerate(steps[first:], start=first + 1):
        where, text, at = f"step {number}", text_of(step.get("message")), _time(step)
        results = (step.get("observation") or {}).get("results", [])
        if step["source"] == "user":
            yield foreign.Told(where=where, text=text, at=at)
        elif step["source"] == "agent":
            metrics = step.get("metrics") or {}
            yield foreign.Said(
                where=where,
                text=text,
                calls=[openai_call(call) for call in step.get("tool_calls") or []],
                at=at,
                model=str(step.get("model_name") or model),
                prompt_ids=metrics.get("prompt_token_ids") or [],
                token_ids=metrics.get("completion_token_ids") or [],
                logprobs=metrics.get("logprobs") or [],
            )
            yield from _heard(step, results, at, where)


def _heard(step: dict[str, Any], results: list[dict[str, Any]], at: float, where: str) -> Iterator[foreign.Heard]:
    """The results of a step: one for each call; without calls they are one observation."""
    if not step.get("tool_calls"):
        if results:
            text = "\n".join(text_of(result.get("content")) for result in results)
            yield foreign.Heard(where=where, text=text, at=at)
        return
    for result in results:
        call = str(result.get("source_call_id") or "")
        yield foreign.Heard(where=where, text=text_of(result.get("content")), call_id=call, at=at)


def _odd(document: dict[str, Any], steps: list[dict[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """What has no place in our records: in words, and itself, to be kept with the origin."""
    lost: list[str] = []
    kept: dict[str, Any] = {}
    for name, what in (
        ("reasoning_content", "reasoning"),
        ("metrics", "costs and counts of tokens"),
        ("extra", "extra"),
    ):
        values = [
            {"step_id": step.get("step_id"), name: _without_tokens(step[name])} for step in steps if step.get(name)
        ]
        values = [value for value in values if value[name]]
        if values:
            kept[f"steps_{name}"] = values
            lost.append(f"{what} of {len(values)} steps (kept in origin.extra only)")
    asides = [step for step in steps if step["source"] == "system"]
    if asides:
        kept["system_steps"] = asides
        lost.append(f"{len(asides)} system messages after the first answer (kept in origin.extra only)")
    if document.get("subagent_trajectories"):
        lost.append(f"{len(document['subagent_trajectories'])} subagent trajectories (kept in origin.extra only)")
    answers = [step.get("metrics") or {} for step in steps if step["source"] == "agent"]
    if not any(metrics.get("completion_token_ids") for metrics in answers):
        lost.append("no token ids and log-probabilities: the file has none")
    elif not all(metrics.get("prompt_token_ids") for metrics in answers):
        lost.append("no token ids of prompts: the file has them of answers only")
    return lost, kept


def _without_tokens(value: Any) -> Any:
    held = ("prompt_token_ids", "completion_token_ids", "logprobs")
    return {k: v for k, v in value.items() if k not in held} if isinstance(value, dict) else value


def _time(step: dict[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(step.get("timestamp")).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return UNKNOWN_TIME
