"""Measure a tiny policy behind a real vLLM server, in simulated MiniLab episodes.

    python scripts/measure_tiny_policy.py --url http://127.0.0.1:8101/v1 --model tiny --episodes 200

Prints one JSON object per arm: without guidance; with the expert's advice (after two failures in a
row at a stage, on the due and the next two stages, one action late); the same in other words, some
of which the policy was never trained on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
from tiny_policy.bench import Bench
from tiny_policy.guidance import CORES, HELD_OUT, fill
from tiny_policy.teacher import USUAL_TOOLS, opening

from hpc.agent.state import read_action
from hpc.config.task import TaskConfig
from hpc.gym import render
from hpc.gym.actions import tool_schemas
from hpc.tasks.minilab.facts import fact_table
from hpc.tasks.minilab.instances import make_instance
from hpc.trajectories.turns import real_user

ARMS = ("silent", "expert", "paraphrase", "unseen")


class Episode:
    """One episode: the bench, the conversation, and an expert who watches."""

    def __init__(self, config: TaskConfig, index: int, arm: str, max_steps: int) -> None:
        self.bench = Bench(make_instance(config.split, config.seed, index), fact_table(config.facts_seed))
        self.messages = opening(self.bench)
        self.arm = arm
        self.max_steps = max_steps
        self.rng = random.Random(f"measure:{index}")
        self.steps = self.malformed = self.stable = self.told = self.obeyed = self.tokens = self.repeated = 0
        self._ids: list[int] = []
        self._failures = 0
        self._due: list[str] | None = None  # values whose advice is on its way
        self._advice: dict[str, str] = {}
        self._tried: set[str] = set()

    @property
    def over(self) -> bool:
        return self.bench.finished or self.steps >= self.max_steps

    def take(self, answer: dict[str, Any]) -> None:
        """One answer of the server, carried out."""
        choice = answer["choices"][0]
        message = choice["message"]
        calls = message.get("tool_calls") or []
        action = read_action(message.get("content") or "", calls)
        prompt, said = answer["prompt_token_ids"], choice["token_ids"]
        self.stable += prompt[: len(self._ids)] == self._ids
        self._ids = prompt + said
        self.tokens = len(self._ids)
        self.steps += 1
        turn: dict[str, Any] = {"role": "assistant", "content": message.get("content") or ""}
        if calls:
            turn["tool_calls"] = calls[:1]
        self.messages.append(turn)
        arriving, self._due = self._due, None
        before = len(self.bench.lab.passed)
        if action.problem:
            self.malformed += 1
            text = render.problem(action.problem)
        else:
            self._note(action.name, action.arguments)
            text = self.bench.act(action.name, action.arguments)
        role = {"role": "tool", "tool_call_id": calls[0]["id"]} if calls else {"role": "user"}
        self.messages.append({**role, "content": text})
        self._failures = self._failures + 1 if " low" in text else self._failures
        if len(self.bench.lab.passed) > before:
            self._failures, self._tried = 0, set()
        if arriving:
            self._advise(arriving)
        if self.arm != "silent" and " low" in text and self._failures == 2:
            stages = self.bench.instance.stages[before : before + 3]
            self._due = [stage.value for stage in stages]

    def _note(self, name: str, arguments: dict[str, Any]) -> None:
        """Count runs with advice on the due stage in the context, and those that obey it."""
        if name != "run_command" or self.bench.complete or self.bench.lab.runs_used >= self.bench.budget:
            return
        stage = self.bench.instance.stages[len(self.bench.lab.passed)]
        option = next((line.partition(": ")[2] for line in self.bench.recipe if line.startswith(stage.knob)), "")
        if stage.value in self._advice:
            self.told += 1
            self.obeyed += option == self._advice[stage.value]
        self.repeated += option in self._tried
        self._tried.add(option)

    def _advise(self, values: list[str]) -> None:
        facts = [self.bench.facts[value] for value in values]
        self._advice.update({fact.value: fact.option for fact in facts})
        wordings = {"paraphrase": CORES, "unseen": HELD_OUT}.get(self.arm)
        said = [fact.advice if wordings is None else fill(self.rng.choice(wordings), fact, self.rng) for fact in facts]
        self.messages.append({"role": "user", "content": real_user("; ".join(said))})


async def play(client: httpx.AsyncClient, model: str, episode: Episode, temperature: float, seed: int) -> None:
    """One episode to its end."""
    tools = tool_schemas(USUAL_TOOLS)
    while not episode.over:
        body = {
            "model": model,
            "messages": episode.messages,
            "tools": tools,
            "temperature": temperature,
            "max_tokens": 96,
            "seed": seed * 1000 + episode.steps,
            "return_token_ids": True,
        }
        response = await client.post("/chat/completions", json=body)
        response.raise_for_status()
        episode.take(response.json())


async def measure(arguments: argparse.Namespace, arm: str) -> dict[str, Any]:
    """All episodes of one arm."""
    config = TaskConfig(split="eval", seed=arguments.seed)
    episodes = [Episode(config, index, arm, arguments.max_steps) for index in range(arguments.episodes)]
    free = asyncio.Semaphore(arguments.concurrency)

    async with httpx.AsyncClient(base_url=arguments.url, timeout=300) as client:

        async def one(index: int) -> None:
            async with free:
                await play(client, arguments.model, episodes[index], arguments.temperature, index)

        await asyncio.gather(*map(one, range(len(episodes))))
    steps = sum(episode.steps for episode in episodes)
    told = sum(episode.told for episode in episodes)
    runs = sum(episode.bench.lab.runs_used for episode in episodes)
    if arguments.show:
        print(json.dumps(episodes[0].messages, indent=1), file=sys.stderr)
    return {
        "arm": arm,
        "episodes": len(episodes),
        "success": round(sum(episode.bench.complete for episode in episodes) / len(episodes), 3),
        "score": round(sum(episode.bench.score for episode in episodes) / len(episodes), 1),
        "finished": round(sum(episode.bench.finished for episode in episodes) / len(episodes), 3),
        "malformed": round(sum(episode.malformed + episode.bench.malformed for episode in episodes) / steps, 4),
        "obeyed": round(sum(episode.obeyed for episode in episodes) / told, 3) if told else None,
        "repeated_options": round(sum(episode.repeated for episode in episodes) / max(runs, 1), 3),
        "prefix_stable": round(sum(episode.stable for episode in episodes) / steps, 4),
        "steps": round(steps / len(episodes), 1),
        "tokens": round(sum(episode.tokens for episode in episodes) / len(episodes)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="OpenAI base URL, ending in /v1")
    parser.add_argument("--model", default="minilab-tiny")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--max-steps", type=int, default=60)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seed", type=int, default=2, help="seed of the instances")
    parser.add_argument("--arm", choices=ARMS, action="append", help="only this arm; repeatable")
    parser.add_argument("--show", action="store_true", help="print the first episode of each arm to stderr")
    arguments = parser.parse_args()
    for arm in arguments.arm or ARMS:
        print(json.dumps(asyncio.run(measure(arguments, arm))), flush=True)


if __name__ == "__main__":
    main()
