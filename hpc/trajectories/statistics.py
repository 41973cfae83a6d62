"""What a set of trajectories adds up to. Pure: index entries in, figures out."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from hpc.trajectories.index import Entry


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How values are spread; all None without a value."""

    count: int
    mean: float | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a set of trajectories.

    Scores are in [0, 100], times seconds. ``prompt_tokens`` counts each step's whole prompt,
    ``new_tokens`` what of it was not in the context before, ``answer_tokens`` what was sampled,
    ``cached_tokens`` what of the prompts the servers had in their caches. ``cost`` (US dollars) and
    ``gpu_seconds`` are of those trajectories that tell it, None if none does.
    ``actions`` and the other dicts count by name, most frequent first; ``errors`` by the boundary that
    they are attributed to. The rates are None without a step.
    """

    runs: int
    trajectories: int
    statuses: dict[str, int]
    steps: int
    steps_each: Spread
    attempts: int
    working_seconds: float
    working_seconds_each: Spread
    model_seconds: float
    prompt_tokens: int
    new_tokens: int
    answer_tokens: int
    cached_tokens: int
    cost: float | None
    gpu_seconds: float | None
    summaries: int
    final_score: Spread
    best_score: Spread
    evaluations: int
    actions: dict[str, int]
    malformed: int
    errors: dict[str, int]
    alerts: int
    alerts_per_100_steps: float | None
    guidance: int
    guidance_per_100_steps: float | None
    detectors: dict[str, int]
    annotators: dict[str, int]


def statistics_of(entries: Sequence[Entry]) -> Statistics:
    """The figures of these trajectories; damaged ones count only in ``trajectories`` and ``statuses``."""
    read = [entry for entry in entries if entry.status != "damaged"]
    steps = sum(entry.steps for entry in read)

    def total(name: str) -> int:
        return sum(getattr(entry, name) for entry in read)

    def counted(of: Callable[[Entry], dict[str, int]]) -> dict[str, int]:
        found: Counter[str] = Counter()
        for entry in read:
            found.update(of(entry))
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    return Statistics(
        runs=len({entry.run for entry in entries}),
        trajectories=len(entries),
        statuses=dict(sorted(Counter(entry.status for entry in entries).items())),
        steps=steps,
        steps_each=spread(entry.steps for entry in read),
        attempts=total("attempts"),
        working_seconds=sum(entry.working_seconds for entry in read),
        working_seconds_each=spread(entry.working_seconds for entry in read),
        model_seconds=sum(entry.model_seconds for entry in read),
        prompt_tokens=total("prompt_tokens"),
        new_tokens=total("new_tokens"),
        answer_tokens=total("answer_tokens"),
        cached_tokens=sum(entry.cached_tokens or 0 for entry in read),
        cost=_known(entry.cost for entry in read),
        gpu_seconds=_known(entry.gpu_seconds for entry in read),
        summaries=total("summaries"),
        final_score=spread(entry.final_score for entry in read),
        best_score=spread(entry.best_score for entry in read),
        evaluations=total("evaluations"),
        actions=counted(lambda entry: entry.actions),
        malformed=total("malformed"),
        errors=counted(lambda entry: entry.boundaries),
        alerts=total("alerts"),
        alerts_per_100_steps=_rate(total("alerts"), steps),
        guidance=total("guidance"),
        guidance_per_100_steps=_rate(total("guidance"), steps),
        detectors=counted(lambda entry: entry.detectors),
        annotators=counted(lambda entry: entry.annotators),
    )


def _known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def spread(values: Iterable[float | None]) -> Spread:
    """How the values that are there are spread."""
    known = [value for value in values if value is not None]
    if not known:
        return Spread(count=0)
    return Spread(
        count=len(known),
        mean=statistics.fmean(known),
        median=statistics.median(known),
        low=min(known),
        high=max(known),
    )


def _rate(count: int, steps: int) -> float | None:
    return 100 * count / steps if steps else None
