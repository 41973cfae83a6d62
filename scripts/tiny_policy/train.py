"""Training the tiny policy from scratch on demonstrations, on the CPU.

Muon (Jordan et al., 2024) moves the matrices and AdamW the rest: copying from guidance is learned
from a quarter of the tokens that AdamW alone needs.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tiny_policy.drills import drill, pairs, permutations, search
from tiny_policy.teacher import demonstrate
from tiny_policy.tokens import END, PAD, Encoder, Example

log = logging.getLogger(__name__)

LEARNING_RATE = 2e-3
WARM_UP = 30
"""Steps of linear warm-up; then the rate falls as a cosine of the tokens spent, to 3 %."""
BATCH = 4096
"""Tokens of a batch at most, padding included."""
LEARNED = 0.98
"""A phase is over when so many of the words that can be known come first."""
SHARES = {"words": 0.35, "drills": 0.6}
"""Largest share of the tokens spent when a phase ends."""
CONTEXT_WEIGHT = 0.05
"""Weight of the tokens that the policy reads but never says."""


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """2.6 million parameters: 4 layers of width 256, 4 heads of 64 on 2 key-value heads."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=-(-len(tokenizer) // 64) * 64,
            hidden_size=256,
            num_hidden_layers=4,
            intermediate_size=512,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids(END),
            pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
            attn_implementation="sdpa",
        )
    )
    # Rotary attention sees positions through what all tokens share: give it something from the start.
    # The output layer is the same matrix, where a shared part changes nothing.
    with torch.no_grad():
        model.model.embed_tokens.weight += 0.02 * torch.randn(1, model.config.hidden_size)
    return model


def batches(examples: list[Example], rng: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of examples of like length: ids, weights and the places of known words, each [B, T]."""
    groups: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda example: len(example.ids)):
        if groups[-1] and (len(groups[-1]) + 1) * len(example.ids) > BATCH:
            groups.append([])
        groups[-1].append(example)
    rng.shuffle(groups)
    for group in groups:
        length = max(len(example.ids) for example in group)
        ids = torch.zeros(len(group), length, dtype=torch.long)
        weights = torch.zeros(len(group), length)
        places = torch.zeros(len(group), length, dtype=torch.bool)
        for row, example in enumerate(group):
            ids[row, : len(example.ids)] = torch.tensor(example.ids)
            weights[row, : len(example.ids)] = torch.tensor(example.weights)
            places[row, example.places] = True
        yield ids, weights, places


def losses(
    model: Qwen3ForCausalLM, ids: torch.Tensor, weights: torch.Tensor, places: torch.Tensor
) -> tuple[torch.Tensor, float, float]:
    """The weighted loss; the mean over taught tokens; both nats a token. And the share of the words
    that can be known (advised options, above all) that the model puts first."""
    weights, places = weights[:, 1:], places[:, 1:]
    chosen = weights > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[chosen]).float()
    target, weight, known = ids[:, 1:][chosen], weights[chosen], places[chosen]
    each = functional.cross_entropy(logits, target, reduction="none")
    right = (logits.detach().argmax(-1) == target)[known].float()
    return (each * weight).sum() / weight.sum(), float(each.detach()[weight >= 1].mean()), float(right.mean())


def train(tokenizer: PreTrainedTokenizerFast, *, seed: int, tokens: int, threads: int) -> Qwen3ForCausalLM:
    """Train on so many tokens: bare words, then drills, until they are learned; then episodes."""
    torch.set_num_threads(threads)
    encode = Encoder(tokenizer)
    rng = random.Random(f"tiny-policy-train:{seed}")
    model = new_model(tokenizer, seed)
    model.train()
    log.info("%d parameters, vocabulary %d", sum(part.numel() for part in model.parameters()), len(tokenizer))
    inner = [part for name, part in model.named_parameters() if part.ndim == 2 and "embed" not in name]
    outer = [part for name, part in model.named_parameters() if part.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(inner, LEARNING_RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
    started = time.monotonic()
    steps = spent = sequences = 0
    recent: list[tuple[float, float]] = []
    phase = "words"
    while True:
        if phase == "words":
            examples = [pairs(rng, encode) for _ in range(256)]
            examples += [permutations(rng, encode) for _ in range(256)]
        elif phase == "drills":
            examples = [encode.example(drill(rng), 0.0) for _ in range(256)]
            examples += [encode.example(search(rng), 0.0) for _ in range(192)]
        else:
            examples = [encode.example(demonstrate(rng), CONTEXT_WEIGHT) for _ in range(128)]
            examples += [encode.example(drill(rng), 0.0) for _ in range(64)]
            examples += [encode.example(search(rng), 0.0) for _ in range(64)]
        for ids, weights, places in batches(examples, rng):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = _rate(steps, spent / tokens)
            loss, taught, known = losses(model, ids, weights, places)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad()
            steps += 1
            spent += ids.numel()
            sequences += len(ids)
            recent = [*recent[-19:], (taught, known)]
            said = [value for _, value in recent if not math.isnan(value)]
            if steps % 20 == 0:
                log.info(
                    "%s step %d, %d tokens, %.0f s: taught loss %.3f, known words %.3f",
                    phase,
                    steps,
                    spent,
                    time.monotonic() - started,
                    sum(value for value, _ in recent) / len(recent),
                    sum(said) / max(len(said), 1),
                )
            if spent >= tokens:
                log.info("done: %d steps, %d sequences, %.0f s", steps, sequences, time.monotonic() - started)
                return model.eval()
            learned = sum(said[-5:]) / 5
            if phase in SHARES and (learned > LEARNED or spent > SHARES[phase] * tokens):
                log.info("%s end at step %d: %.3f known", phase, steps, learned)
                phase = {"words": "drills", "drills": "episodes"}[phase]
                recent = []
                break


def _rate(step: int, spent: float) -> float:
    """Learning rate after ``step`` steps and this share of the tokens."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * (0.03 + 0.97 * (1 + math.cos(math.pi * spent)) / 2)
