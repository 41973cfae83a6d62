"""Make the shipped tiny policy (models/minilab-tiny) from scratch on two CPU cores.

    python scripts/make_tiny_policy.py --out models/minilab-tiny --seed 0 --minutes 8

It needs torch and transformers, for example the serve runtime's Python. The policy learns forms
and obedience from demonstrations in which the facts are drawn anew every time; it never sees the
facts of a run. `scripts/measure_tiny_policy.py` measures it behind a real vLLM server.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TOKENS_PER_MINUTE = 400_000
"""What two cores train on in a minute. The training is as long as its tokens, not as the clock
says: a busy machine takes longer, but makes the same policy."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, tokenizer and template")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes",
        type=float,
        default=8.0,
        help="length of the training, minutes of two idle cores",
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    import torch
    from tiny_policy.tokens import build
    from tiny_policy.train import train

    tokenizer = build(arguments.seed)
    tokens = int(arguments.minutes * TOKENS_PER_MINUTE)
    model = train(tokenizer, seed=arguments.seed, tokens=tokens, threads=arguments.threads)
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    size = sum(path.stat().st_size for path in arguments.out.iterdir())
    logging.info("%s: %.1f MB", arguments.out, size / 1e6)


if __name__ == "__main__":
    main()
