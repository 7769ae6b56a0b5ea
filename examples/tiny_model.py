"""A tiny language model from scratch, and a tokenizer whose texts have more than one way to be written in tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML that trims what is said, as the templates of many models do."""


def tiny_model(vocabulary_size: int, *, seed: int, hidden_size: int = 64, layers: int = 2) -> Any:
    """A model of Llama's kind with random weights. It knows nothing."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=1024,
        initializer_range=hidden_size**-0.5,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)


def write_merging_tokenizer(folder: Path, merges: int = 100) -> None:
    """Train a byte-level BPE with merges on texts of the guessing game, and write it as `AutoTokenizer` loads it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = [AddedToken(text, special=True, normalized=False) for text in ("<|im_start|>", "<|im_end|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(control) + merges,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=control,
        show_progress=False,
    )
    tokenizer.train_from_iterator(game_texts(), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    folder.joinpath("tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    folder.joinpath("chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


def game_texts() -> Iterator[str]:
    """What is said in guessing games."""
    for number in range(1, 100):
        yield f"user\nI think of a number from 1 to {number}. Guess it."
        yield f"assistant\nIs it {number}?"
        yield f"assistant\nMy guess: {number}."
        yield "user\nHigher."
        yield "user\nLower."
        yield "user\nThat is no number."
