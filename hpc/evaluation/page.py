"""One trajectory as one page: everything inside, nothing fetched, smooth with thousands of steps.

What stored texts say reaches the page in two ways only: escaped by the template, or compressed in
base64 and put in place as text by the page's script. A content security policy that knows the script by
its hash and lets nothing be loaded stands behind both.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from hpc.core.locate import data_dir
from hpc.evaluation.rows import Label, Texts, rows_of
from hpc.evaluation.timeline import HEIGHT, LEFT, LEGEND, RIGHT, WIDTH, draw, timeline_of
from hpc.evaluation.words import clock, duration, score
from hpc.trajectories.reader import Trajectory
from hpc.trajectories.records import ActionTaken, BranchPoint, GuidanceApplied

NARROW = 380
"""Width of the timeline on a phone, in the picture's units."""
TEXT_BYTES = 48 << 20
"""Texts on one page before the longest are cut; a browser holds this many without effort."""
BLOCK_BYTES = 192 << 10
"""Texts are unpacked in blocks of about this size, when a step in them is opened or searched."""


class Help(msgspec.Struct, frozen=True, kw_only=True):
    """Guidance at the top of the page; ``waited`` is the time from alert to reply in seconds."""

    step: int
    annotator: str
    text: str
    waited: float | None


def render_page(trajectory: Trajectory, *, labels: Sequence[Label] = (), text_bytes: int = TEXT_BYTES) -> str:
    """The page of a trajectory in any state.

    Args:
        labels: verdicts on its steps, shown in their colours and as filters.
        text_bytes: cut the longest texts (and say so) until all together are no larger than this.

    Raises:
        TrajectoryIncomplete: the trajectory is damaged.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    records = list(trajectory.records())
    rows, texts = rows_of(records, labels)
    limit = longest_allowed((len(text.observation) for text in texts), text_bytes)
    cut = [text.observation_cut_to(limit) for text in texts] if limit is not None else texts
    timeline = timeline_of(records)
    templates = data_dir("templates")
    environment = Environment(
        loader=FileSystemLoader([templates / "trajectory", templates / "report"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "score": score, "clock": clock}
    script = (templates / "trajectory" / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    spans = blocks(cut)
    return environment.get_template(
        "page.html.j2"
    ).render(
        summary=trajectory.summary(),
        facts=_facts(trajectory, sorted({record.model for record in records if isinstance(record, ActionTaken)})),
        legend=[kind for kind in LEGEND if any(mark.kind == kind for mark in timeline.steps)],
        has_progress=any(mark.progress is not None for mark in timeline.steps),
        helped=_helped(trajectory),
        prompt=[_message(message) for message in trajectory.header.messages],
        wide=Markup(draw(timeline)),  # made by us, escaped there
        narrow=Markup(draw(timeline, width=NARROW)),
        picture={"left": LEFT, "right": RIGHT, "width": WIDTH, "narrow": NARROW, "height": HEIGHT},
        rows=pack(rows),
        blocks=[(first, pack(cut[first:stop])) for first, stop in spans],
        limit=limit,
        cut=sum(text.cut > 0 for text in cut),
        command=f"hpc traj show {trajectory.path} --full --steps",
        script=Markup(script),  # ours; the policy names its hash
        script_hash=digest,
        written_at=time.time(),
    )


def longest_allowed(lengths: Iterable[int], total: int) -> int | None:
    """The length to cut texts to so that all fit into ``total``; None if they do as they are. Pure."""
    ordered = sorted(lengths)
    left = total
    for shorter, length in enumerate(ordered):
        share = left // (len(ordered) - shorter)
        if length > share:
            return share
        left -= length
    return None


def blocks(texts: Sequence[Texts]) -> list[tuple[int, int]]:
    """Where to part the texts of steps: (first, behind the last) of each block, in order. Pure."""
    spans: list[tuple[int, int]] = []
    first = size = 0
    for position, text in enumerate(texts):
        size += text.size
        if size >= BLOCK_BYTES:
            spans.append((first, position + 1))
            first, size = position + 1, 0
    return [*spans, (first, len(texts))] if first < len(texts) else spans


def pack(value: Any) -> str:
    """JSON, compressed, in base64: letters that mean nothing to a browser."""
    return base64.b64encode(gzip.compress(msgspec.json.encode(value), 6, mtime=0)).decode()


def _facts(trajectory: Trajectory, models: Sequence[str]) -> list[tuple[str, str]]:
    header, outcome = trajectory.header, trajectory.outcome
    steps = trajectory.table("steps")
    hosts = list(dict.fromkeys(attempt.host for attempt in trajectory.attempts))
    prompt, new, answer = (int(steps[name].sum()) for name in ("shared_tokens", "prompt_tokens", "answer_tokens"))
    usage, branch = trajectory.usage(), header.branched_from
    facts = [
        ("run", header.run),
        ("began", clock(header.created_at) if header.created_at else ""),
        ("ended", clock(outcome.at) if outcome and outcome.at else ""),
        ("model", ", ".join(filter(None, models))),
        ("seed", str(header.seed)),
        ("split", header.split),
        ("hosts", ", ".join(hosts[:4]) + (f" and {len(hosts) - 4} more" if len(hosts) > 4 else "")),
        ("tokens in", f"{prompt + new:,}" if prompt + new else ""),
        ("tokens out", f"{answer:,}" if answer else ""),
        ("cached", _tokens(usage["used_cached_tokens"])),
        ("cost", "" if usage["cost"] is None else f"${usage['cost']:,.2f}"),
        ("GPU time", duration(usage["gpu_seconds"] or None).replace("–", "")),
        ("summaries", str(len(trajectory.contexts) or "")),
        ("branched off", "" if branch is None else f"{branch.run}/{branch.index} after step {branch.step}"),
        ("left behind", _abandoned(branch)),
        ("model time", duration(float(steps["model_seconds"].sum()) or None).replace("–", "")),
        ("configuration", header.config_hash[:12]),
        ("environment", header.environment_hash[:12]),
    ]
    return [(name, value) for name, value in facts if value]


def _tokens(count: float | None) -> str:
    return "" if count is None else f"{int(count):,} tokens"


def _abandoned(branch: BranchPoint | None) -> str:
    if branch is None or branch.abandoned <= branch.step:
        return ""
    return f"its steps {branch.step + 1} to {branch.abandoned}"


def _helped(trajectory: Trajectory) -> list[Help]:
    asked = {alert.id: alert.sent_at for alert in trajectory.alerts}

    def waited(given: GuidanceApplied) -> float | None:
        at = asked.get(given.alert_id or "")
        return None if at is None else given.sent_at - at

    return [
        Help(step=given.applied_step, annotator=given.annotator, text=given.text, waited=waited(given))
        for given in trajectory.guidance
    ]


def _message(message: dict[str, Any]) -> tuple[str, str]:
    content = message.get("content", "")
    text = content if isinstance(content, str) else msgspec.json.format(msgspec.json.encode(content)).decode()
    return str(message.get("role", "")), text
