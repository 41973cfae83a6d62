"""The records an episode is made of. All times are Unix seconds (UTC) as floats.

A trajectory is an ordered list of these records. They are the words that gym, agent, drift and the
store share; nothing here does anything.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FORMAT_VERSION = 2
"""2 added the records `ContextRewritten` and `SnapshotTaken`, what a step cost, branch points and the
environment's hash; files of version 1 are read as well."""

Boundary = Literal["model", "environment", "tool", "evaluator", "infrastructure"]
"""Where a failure comes from; each failure is attributed to exactly one."""

Status = Literal["running", "finished", "truncated", "failed", "stopped"]
"""Of an episode: finished = the agent said so; truncated = a limit; failed = a boundary broke;
stopped = an annotator or the user ended it."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent asked the environment to do, as parsed from one tool call.

    ``name == "null"`` is the malformed action: ``problem`` says what was wrong with it.
    """

    name: str
    arguments: dict[str, Any] = {}
    call_id: str = ""
    problem: str = ""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict of the hidden evaluator; ``score`` is in [0, 100]."""

    score: float
    message: str = ""
    forced: bool = False
    left: int = 0


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment answered.

    ``progress`` is the task's own public measure in [0, 1] where it has one (never the hidden
    score), ``polling`` marks an action that only looked at running work, ``job_progressed`` that
    this work moved since the last look.
    """

    text: str
    is_error: bool = False
    boundary: Boundary | None = None
    terminated: bool = False
    progress: float | None = None
    polling: bool = False
    job_progressed: bool = False
    evaluation: Evaluation | None = None
    info: dict[str, Any] = {}


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer cost, as far as it is known; None where it is not.

    ``prompt_tokens`` and ``completion_tokens`` are the server's own count, ``cached_tokens`` of the prompt
    were found in its cache. ``cost`` is money by the configured prices, in US dollars. ``gpu_seconds`` are
    the seconds of the answer times the GPUs of the replica that gave it; it answered others meanwhile, so
    that is the most it can have cost.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cost: float | None = None
    gpu_seconds: float | None = None


class ModelResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of the model server.

    ``prompt_token_ids`` and ``token_ids`` are the engine's own (never re-tokenised);
    ``logprobs[i]`` is the natural-log probability of ``token_ids[i]`` under the sampling engine.
    """

    text: str
    tool_calls: list[dict[str, Any]] = []
    finish_reason: str = ""
    prompt_token_ids: list[int] = []
    token_ids: list[int] = []
    logprobs: list[float] = []
    endpoint: str = ""
    model: str = ""
    seconds: float = 0.0
    usage: Usage | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a judge said of an episode's steps up to ``asked`` (`hpc.drift.judge`).

    It is stored with the step at which it arrived, which may be a later one. ``problem`` says why
    there is no verdict although one was asked for; such a one is no sign of anything.
    ``confidence`` is in [0, 1]; ``tokens`` is what the call used, prompt and answer.
    """

    asked: int
    drifting: bool = False
    confidence: float = 0.0
    reason: str = ""
    problem: str = ""
    tokens: int = 0
    seconds: float = 0.0


VERDICTS = "drift_verdicts"
"""Key of `Observation.info` under which a step holds the verdicts that arrived during it."""


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """One finished step as the drift detectors see it.

    ``logprob`` is the mean natural-log probability of the answer's tokens; None where the engine told
    none. ``verdicts`` are a judge's, arrived during the step.
    """

    step: int
    action: str
    arguments: str  # canonical JSON
    observation: str
    is_error: bool = False
    is_malformed: bool = False
    polling: bool = False
    job_progressed: bool = False
    progress: float | None = None
    score: float | None = None
    tokens: int = 0
    working_seconds: float = 0.0
    logprob: float | None = None
    verdicts: tuple[Verdict, ...] = ()


class DriftSignal(msgspec.Struct, frozen=True, kw_only=True):
    """Why an alert is due: the detector, how sure it is (in [0, 1]), a sentence for the annotator
    and the steps that show it."""

    detector: str
    score: float
    step: int
    reason: str
    evidence: list[int] = []
    priority: Literal["ask", "drift", "milestone"] = "drift"


# ---- the log's records, in the order in which they happen -------------------------------------


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where an imported trajectory comes from.

    ``format`` is the name of the format it was read as, ``file`` the source as it was named, ``sha256``
    of that whole file, ``entry`` the trajectory's place in it where it holds several (line, row, sample).
    ``lost`` says what could not be taken over, and ``extra`` keeps what has no place in our records.
    """

    format: str
    file: str
    sha256: str
    entry: str = ""
    lost: list[str] = []
    extra: dict[str, Any] = {}


class BranchPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where an episode branched off another: it began as a copy of that one up to ``step``.

    Steps 1 to ``step`` are the other's own and count (and teach) there; what it had done since, steps
    ``step`` + 1 to ``abandoned``, is left behind in it (``abandoned`` equals ``step`` if there was
    nothing). ``snapshot`` is the id of the workspace that the branch began with, empty if it had none.
    """

    episode_id: str
    run: str
    index: int
    step: int
    abandoned: int
    at: float
    snapshot: str = ""


class EpisodeHeader(msgspec.Struct, frozen=True, kw_only=True, tag="header"):
    """First record of every trajectory. ``origin`` is set where it was imported: no process of this
    project played the episode, and unless the source had them there are no token ids.

    ``environment`` says what the episode ran in (package version, commit, hash of the installed packages,
    Python, image), ``environment_hash`` is the SHA-256 of that as JSON with sorted keys.
    """

    episode_id: str
    run: str
    index: int
    task_id: str
    task_family: str
    split: str
    seed: int
    config_hash: str
    created_at: float
    messages: list[dict[str, Any]] = []  # the prompt: system and user turns before step 1
    tools: list[dict[str, Any]] = []
    origin: Origin | None = None
    environment_hash: str = ""
    environment: dict[str, str] = {}
    branched_from: BranchPoint | None = None
    format_version: int = FORMAT_VERSION


class AttemptStarted(msgspec.Struct, frozen=True, kw_only=True, tag="attempt"):
    """A process began (or resumed) the episode. ``epoch`` grows by one each time."""

    epoch: int
    at: float
    host: str
    job_id: str = ""
    resumed_at_step: int = 0


class ActionTaken(msgspec.Struct, frozen=True, kw_only=True, tag="action"):
    """The model's answer and the action read from it, durable BEFORE the action is carried out.

    The whole context is never stored twice: ``shared_tokens`` leading ids of this prompt equal the
    previous step's prompt + answer, ``new_prompt_ids`` are the rest. ``duplicate_spans`` are the ranges
    (first, behind the last) of the prompt's ids that were attached again behind a summary: they were in
    the context before, so that nothing in them is ever trained on (a second time).
    """

    step: int
    at: float
    action: Action
    text: str = ""
    tool_calls: list[dict[str, Any]] = []
    finish_reason: str = ""
    shared_tokens: int = 0
    new_prompt_ids: list[int] = []
    token_ids: list[int] = []
    logprobs: list[float] = []
    endpoint: str = ""
    model: str = ""
    model_seconds: float = 0.0
    usage: Usage | None = None
    duplicate_spans: list[tuple[int, int]] = []


class Observed(msgspec.Struct, frozen=True, kw_only=True, tag="observation"):
    """What the action led to; with it the step is complete. ``working_seconds`` is the episode's
    clock so far, without queue time."""

    step: int
    at: float
    observation: Observation
    working_seconds: float = 0.0


class AlertRaised(msgspec.Struct, frozen=True, kw_only=True, tag="alert"):
    """The agent asked for a human's attention after ``step``.

    ``priority``: "drift" (a detector), "ask" (the agent's own request), "milestone" (a notice).
    """

    id: str
    detector: str
    score: float
    step: int
    reason: str
    evidence: list[int] = []
    priority: Literal["ask", "drift", "milestone"] = "drift"
    sent_at: float = 0.0


class GuidanceApplied(msgspec.Struct, frozen=True, kw_only=True, tag="guidance"):
    """Guidance entered the context, as a ``<real_user>`` turn after step ``applied_step``.

    The annotator had it valid up to the step ``valid_until_step`` and the time ``valid_until``, and
    meant it in the stead of the guidance ``replaces``, where these are given.
    """

    id: str
    alert_id: str | None
    annotator: str
    text: str
    kind: str
    sent_at: float
    delivered_at: float
    applied_at: float
    applied_step: int
    valid_until_step: int | None = None
    valid_until: float | None = None
    replaces: str | None = None


class ContextRewritten(msgspec.Struct, frozen=True, kw_only=True, tag="context"):
    """A summary took the place of the oldest steps in the model's context.

    From the next action on the context is the opening prompt, ``text`` as a user turn, and the messages of
    steps ``last_step`` + 1 to ``after_step`` once more: duplicates, which are in the trajectory already
    and are never trained on. ``text`` stands for steps 1 to ``last_step``, an earlier summary included, and
    quotes the guidance ``guidance`` (ids) that was applied in them word by word. ``written_by`` names who
    wrote it, a model or this program itself; the rest is what that took.
    """

    number: int  # of the episode's summaries, from 1
    at: float
    after_step: int
    last_step: int
    text: str
    kind: Literal["summary"] = "summary"
    guidance: list[str] = []
    written_by: str = ""
    model_seconds: float = 0.0
    usage: Usage | None = None


class SnapshotTaken(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """The workspace after ``step`` was put into the store beside the trajectories.

    ``id`` is the SHA-256 of its manifest, so equal workspaces have equal ids; empty if none was taken, and
    ``problem`` says why. ``size`` counts the bytes of its ``files``, ``stored`` what it added to the store.
    """

    id: str
    step: int
    at: float
    reason: Literal["interval", "end", "request"] = "interval"
    files: int = 0
    size: int = 0
    stored: int = 0
    seconds: float = 0.0
    problem: str = ""


class OutcomeReached(msgspec.Struct, frozen=True, kw_only=True, tag="outcome"):
    """Last record: how the episode ended."""

    status: Status
    at: float
    steps: int
    working_seconds: float
    final_score: float | None = None
    best_score: float | None = None
    reason: str = ""
    boundary: Boundary | None = None


Record = (
    EpisodeHeader
    | AttemptStarted
    | ActionTaken
    | Observed
    | AlertRaised
    | GuidanceApplied
    | ContextRewritten
    | SnapshotTaken
    | OutcomeReached
)
