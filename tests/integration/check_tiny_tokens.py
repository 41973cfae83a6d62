"""Run by a Python with transformers: token ids of the shipped policy are stable. Prints what it did.

python check_tiny_tokens.py REPOSITORY MODEL_FOLDER
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

repository, model = (Path(argument) for argument in sys.argv[1:3])
sys.path[:0] = [str(repository), str(repository / "scripts")]

from tiny_policy.teacher import demonstrate  # noqa: E402
from tiny_policy.tokens import turn  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

tokenizer = AutoTokenizer.from_pretrained(model)
END = tokenizer.eos_token_id
checked = longest = 0
for seed in range(30):
    demonstration = demonstrate(random.Random(f"check:{seed}"))
    tools = [{"type": "function", "function": {"name": name}} for name in demonstration.tools]
    messages = []
    context: list[int] = []
    for message in demonstration.messages:
        if message["role"] == "assistant":
            prompt = tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=False
            )
            if prompt[: len(context)] != context:
                sys.exit(f"seed {seed}: the prompt does not begin with the tokens of the turn before")
            answer = tokenizer.encode(turn(message), add_special_tokens=False)[1:]
            if answer[-1] != END or END in answer[:-1]:
                sys.exit(f"seed {seed}: an answer must end, once, in {tokenizer.eos_token}")
            context = prompt + answer
            checked += 1
            longest = max(longest, len(answer))
        calls = [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
            for call in message.get("tool_calls", [])
        ]
        messages.append({**message, "tool_calls": calls} if calls else message)

for text in ("for cobalt set anneal to 450C", "wörter, 日本語\t\n\n  and cobalts 1234567", "<real_user>x</real_user>"):
    if tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) != text:
        sys.exit(f"{text!r} does not survive the tokenizer")
print(json.dumps({"checked": checked, "longest": longest, "vocabulary": len(tokenizer)}))
