"""Writes the embedded tokenizer as a Hugging Face folder: a trainer then has the same ids, without a download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from chatenv_server.tokenizer_files.byte_tokenizer import END_OF_TEXT, TURN_END, ByteTokenizer

_CONFIG: Final = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": TURN_END,
    "pad_token": END_OF_TEXT,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 2**30,
}
"""What `AutoTokenizer` makes of `tokenizer.json`. The class is one that transformers 4 and 5 both know."""


def export_embedded(folder: Path) -> None:
    """Write the embedded tokenizer, with its chat template and a pad token, so that `AutoTokenizer` loads it.

    Args:
        folder: made where it is not there.

    Raises:
        OSError: it cannot be made or written.
        ValueError: there is something in it already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"there is something in {folder} already; give a folder that is empty or not there yet")
    tokenizer = ByteTokenizer()
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    folder.joinpath("tokenizer_config.json").write_text(json.dumps(_CONFIG, indent=2) + "\n", encoding="utf-8")
    folder.joinpath("chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
