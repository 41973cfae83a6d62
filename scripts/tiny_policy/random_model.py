"""The tiny policy before it has learned anything, as a folder that training can begin from."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from tiny_policy.train import new_model


def write_random_model(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Write it with its tokenizer, in Hugging Face format. The marker STABLE comes last."""
    model = new_model(tokenizer, seed)
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "STABLE").touch()
