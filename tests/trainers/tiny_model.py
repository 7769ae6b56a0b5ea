"""A model that learns within a test: two small layers over the embedded tokenizer, of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatenv_server.tokenizer_files.exporting import export_embedded


def tiny_tokenizer(folder: Path) -> Any:
    """The embedded tokenizer as transformers has it."""
    from transformers import AutoTokenizer

    export_embedded(folder)
    return AutoTokenizer.from_pretrained(folder)


def tiny_model(tokenizer: Any, *, seed: int = 0) -> Any:
    """A Qwen2 of 30,000 parameters."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config)
