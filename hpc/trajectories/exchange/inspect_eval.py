"""inspect_ai's eval log (inspect.aisi.org.uk), written so that ``inspect view`` and ``read_eval_log`` open it.

An ``.eval`` file is a ZIP of JSON: ``samples/<id>_epoch_<n>.json`` for each sample, ``summaries.json``
and ``header.json``. Each trajectory is a sample with its messages, its transcript (model, tool, score
and info events) and its final score; what inspect has no field for is in ``metadata.apollo_hpc`` of the
sample and of its messages. Written without inspect_ai, one sample at a time.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import IO, Any

import msgspec

from hpc import __version__
from hpc.trajectories.exchange.conversation import KEY, Part, called, parts_of
from hpc.trajectories.exchange.losses import TOKENS
from hpc.trajectories.exchange.source import text_of
from hpc.trajectories.records import (
    ActionTaken,
    AlertRaised,
    AttemptStarted,
    ContextRewritten,
    EpisodeHeader,
    GuidanceApplied,
    Observed,
    OutcomeReached,
    Record,
    SnapshotTaken,
)

FORMAT = "inspect"
SUFFIXES = (".eval",)
LOSSES = (TOKENS,)
SCORER = "hidden_evaluator"
_STOPS = ("stop", "max_tokens", "model_length", "tool_calls", "content_filter")


class Writer:
    """Writes samples into a ZIP file that the caller opened; `close` adds summaries and header."""

    def __init__(self, file: IO[bytes], *, bare: bool = False) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)
        self._bare = bare
        self._epochs: dict[str, int] = {}
        self._summaries: list[dict[str, Any]] = []
        self._scores: list[float] = []
        self._run = ""
        self._model = ""
        self._families: set[str] = set()
        self._span = (0.0, 0.0)

    def add(self, records: Iterable[Record]) -> None:
        """Write one trajectory as a sample. The second one of an episode becomes epoch 2 of its sample."""
        sample = _Sample(self._bare)
        for part in parts_of(records):
            sample.add(part)
        header = sample.header
        if header is None:
            raise ValueError("a trajectory begins with its header")
        name = header.episode_id.replace("/", "-") or "episode"
        epoch = self._epochs[name] = self._epochs.get(name, 0) + 1
        written = sample.finish(name, epoch)
        self._put(f"samples/{name}_epoch_{epoch}.json", written)
        self._summaries.append(_summary(written))
        if sample.outcome is not None and sample.outcome.final_score is not None:
            self._scores.append(sample.outcome.final_score)
        self._run = self._run or header.run
        self._model = self._model or sample.model
        self._families.add(header.task_family)
        times = [at for at in (*self._span, header.created_at, sample.ended_at) if at]
        self._span = (min(times, default=0.0), max(times, default=0.0))

    def close(self) -> None:
        """Write summaries and header, and the ZIP's directory."""
        self._put("summaries.json", self._summaries)
        self._put("header.json", self._header())
        self._zip.close()

    def _put(self, name: str, value: Any) -> None:
        entry = zipfile.ZipInfo(name)  # of 1980: the same trajectories give the same bytes
        entry.compress_type = zipfile.ZIP_DEFLATED
        self._zip.writestr(entry, json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def _header(self) -> dict[str, Any]:
        started, ended = (_iso(at) for at in self._span)
        count = len(self._summaries)
        task = "+".join(sorted(filter(None, self._families))) or "episodes"
        scores = []
        if self._scores:
            mean = {"name": "mean", "value": sum(self._scores) / len(self._scores), "params": {}}
            scores.append({"name": SCORER, "scorer": SCORER, "params": {}, "metrics": {"mean": mean}})
        return {
            "version": 2,
            "status": "success",
            "eval": {
                "eval_id": self._run or task,
                "run_id": self._run or task,
                "created": started,
                "task": task,
                "task_id": self._run or task,
                "task_version": 0,
                "dataset": {"name": task, "samples": count, "sample_ids": list(self._epochs)},
                "model": self._model or "unknown",
                "config": {"epochs": max(self._epochs.values(), default=1)},
                "packages": {"apollo-hpc": __version__},
            },
            "plan": {"name": "plan", "steps": [], "config": {}},
            "results": {"total_samples": count, "completed_samples": count, "scores": scores},
            "stats": {"started_at": started, "completed_at": ended, "model_usage": {}},
        }


class _Sample:
    def __init__(self, bare: bool) -> None:
        self.header: EpisodeHeader | None = None
        self.outcome: OutcomeReached | None = None
        self.model = ""
        self.ended_at = 0.0
        self._bare = bare
        self._messages: list[dict[str, Any]] = []
        self._prompt: list[dict[str, Any]] = []
        self._before: list[dict[str, Any]] = []  # remainders of what comes before the first answer
        self._events: list[dict[str, Any]] = []
        self._tokens = [0, 0]
        self._taken: ActionTaken | None = None
        self._clock = 0.0

    def add(self, part: Part) -> None:
        record, remainder = part.record, part.remainder
        match record:
            case EpisodeHeader():
                self.header = record
                remainder["tools"] = record.tools
                self._prompt = [_prompt_message(message) for message in record.messages]
                self._messages = list(self._prompt)
                if [openai_message(message) for message in self._prompt] != record.messages:
                    remainder["messages"] = record.messages
                self.ended_at = record.created_at
            case ActionTaken():
                self._answer(record, remainder)
            case Observed():
                self._observe(record)
            case GuidanceApplied():
                self._messages.append({"role": "user", "content": part.messages[0]["content"]})
                self._info("guidance", record, record.applied_at)
            case AlertRaised():
                self._info("alert", record, record.sent_at)
            case AttemptStarted():
                self._info("attempt", record, record.at)
            case ContextRewritten():
                self._info("summary", record, record.at)
            case SnapshotTaken():
                self._info("snapshot", record, record.at)
            case OutcomeReached():
                self.outcome, self.ended_at = record, record.at
        if len(self._messages) > len(self._prompt):
            self._messages[-1].setdefault("metadata", {}).setdefault(KEY, []).append(remainder)
        else:
            self._before.append(remainder)

    def _answer(self, taken: ActionTaken, remainder: dict[str, Any]) -> None:
        self._taken = taken
        self.model = self.model or taken.model
        message: dict[str, Any] = {"role": "assistant", "content": taken.text, "source": "generate"}
        calls = [_native(call) for call in taken.tool_calls[:1]]
        if calls:
            message["tool_calls"] = calls
        if [openai_call(call) for call in calls] != taken.tool_calls:
            remainder["tool_calls"] = taken.tool_calls
        if taken.model:
            message["model"] = taken.model
        self._messages.append(message)
        prompt, answer = taken.shared_tokens + len(taken.new_prompt_ids), len(taken.token_ids)
        self._tokens = [self._tokens[0] + prompt, self._tokens[1] + answer]
        stop = taken.finish_reason if taken.finish_reason in _STOPS else "unknown"
        output: dict[str, Any] = {
            "model": taken.model,
            "choices": [{"message": dict(message), "stop_reason": stop}],
            "usage": _usage(prompt, answer),
            "time": taken.model_seconds,
        }
        shown = self._prompt if taken.step == 1 else []  # later prompts are the transcript so far
        self._event(
            "model",
            taken.at - taken.model_seconds if taken.at else 0.0,
            model=taken.model or "unknown",
            input=shown,
            tools=[],
            tool_choice="auto",
            config={},
            output=output,
            completed=_iso(taken.at),
        )

    def _observe(self, observed: Observed) -> None:
        taken, observation = self._taken, observed.observation
        if taken is None:
            return
        text, call = observation.text, taken.action
        failed = {"type": "unknown", "message": observation.boundary or "error"} if observation.is_error else None
        if taken.tool_calls:
            call_id = str(taken.tool_calls[0].get("id", ""))
            message: dict[str, Any] = {"role": "tool", "content": text, "tool_call_id": call_id, "function": call.name}
            if failed:
                message["error"] = failed
        else:
            message = {"role": "user", "content": text}
        self._messages.append(message)
        self.ended_at, self._clock = observed.at, observed.working_seconds
        event = {"id": call.call_id, "function": call.name, "arguments": call.arguments, "result": text}
        more = {"error": failed} if failed else {}
        self._event("tool", taken.at, type="function", events=[], completed=_iso(observed.at), **event, **more)
        verdict = observation.evaluation
        if verdict is not None:
            score = {"value": verdict.score, "explanation": verdict.message}
            self._event("score", observed.at, score=score, intermediate=True, scorer=SCORER)

    def _info(self, source: str, record: Record, at: float) -> None:
        self._event("info", at, source=source, data=msgspec.to_builtins(record))

    def _event(self, kind: str, at: float, **fields: Any) -> None:
        name = f"e{len(self._events)}"
        self._events.append(
            {"event": kind, "uuid": name, "timestamp": _iso(at), "working_start": self._clock, **fields}
        )

    def finish(self, name: str, epoch: int) -> dict[str, Any]:
        header, outcome = self.header, self.outcome
        if header is None:
            raise ValueError("a trajectory begins with its header")
        about: dict[str, Any] = {
            "task": header.task_id,
            "task_family": header.task_family,
            "split": header.split,
            "seed": header.seed,
        }
        if outcome is not None:
            about |= {"status": outcome.status, "reason": outcome.reason}
        sample: dict[str, Any] = {
            "id": name,
            "epoch": epoch,
            "input": self._prompt,
            "target": "",
            "messages": [{"id": f"m{i}", **self._message(message)} for i, message in enumerate(self._messages)],
            "output": {"model": self.model, "choices": [], "completion": ""},
            "metadata": about if self._bare else about | {KEY: self._before},
            "store": {},
            "events": self._events,
            "model_usage": {self.model or "unknown": _usage(*self._tokens)},
            "started_at": _iso(header.created_at),
            "completed_at": _iso(self.ended_at),
            "attachments": {},
            "uuid": f"{header.episode_id}-{epoch}",
        }
        if header.created_at:
            sample["total_time"] = max(0.0, self.ended_at - header.created_at)
        if outcome is None:
            return sample
        sample["working_time"] = outcome.working_seconds
        if outcome.final_score is not None:
            sample["scores"] = {SCORER: {"value": outcome.final_score, "explanation": outcome.reason}}
        if outcome.status == "failed":
            sample["error"] = {"message": outcome.reason, "traceback": "", "traceback_ansi": ""}
        elif outcome.status in ("truncated", "stopped"):
            limit = "operator" if outcome.status == "stopped" else "custom"
            sample["limit"] = {"type": limit, "limit": outcome.steps, "reason": outcome.reason}
        return sample

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in message.items() if k != "metadata"} if self._bare else message


def openai_message(message: dict[str, Any]) -> dict[str, Any]:
    """A prompt's message as OpenAI writes it."""
    return {"role": message["role"], "content": message["content"]}


def openai_call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call of inspect as OpenAI writes it."""
    function = {"name": call["function"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
    return {"id": call["id"], "type": "function", "function": function}


def _native(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call as inspect writes it; of one whose arguments cannot be read it keeps the error."""
    action = called(call)
    name = str((call.get("function") or {}).get("name", ""))
    native = {"id": action.call_id, "function": name, "arguments": action.arguments, "type": "function"}
    return native | {"parse_error": action.problem} if action.problem else native


def _prompt_message(message: dict[str, Any]) -> dict[str, Any]:
    role = message["role"] if message["role"] in ("system", "user", "assistant") else "user"
    return {"role": role, "content": text_of(message.get("content")), "source": "input"}


def _usage(prompt: int, answer: int) -> dict[str, int]:
    return {"input_tokens": prompt, "output_tokens": answer, "total_tokens": prompt + answer}


def _summary(sample: dict[str, Any]) -> dict[str, Any]:
    held = ("id", "epoch", "input", "target", "scores", "model_usage", "started_at", "completed_at", "total_time")
    more = ("working_time", "uuid")
    summary = {name: sample[name] for name in (*held, *more) if name in sample}
    summary["metadata"] = {name: value for name, value in sample["metadata"].items() if name != KEY}
    summary["input"] = next((m["content"] for m in reversed(sample["input"]) if m["role"] == "user"), "")[:1000]
    summary |= {"completed": True, "message_count": len(sample["messages"])}
    if "error" in sample:
        summary["error"] = sample["error"]["message"]
    if "limit" in sample:
        summary["limit"] = sample["limit"]["type"]
    return summary


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
