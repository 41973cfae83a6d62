"""The tiny policy before it has learned anything."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tiny_policy.tokens import END, PAD


def write_random_model(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """2.6 million parameters: 4 layers of width 256, 4 heads of 64 on 2 key-value heads; with its tokenizer. The
    marker STABLE comes last."""
    torch.manual_seed(seed)
    end = tokenizer.convert_tokens_to_ids(END)
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
            rope_theta=10000.0,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        )
    )
    # Rotary attention sees positions through what all tokens share: give it something from the start.
    # The output layer is the same matrix, where a shared part changes nothing.
    with torch.no_grad():
        model.model.embed_tokens.weight += 0.02 * torch.randn(1, model.config.hidden_size)
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "STABLE").touch()
