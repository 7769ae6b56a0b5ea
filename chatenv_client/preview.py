"""Tokenizes a message in the caller's process, as a preview. The server decides what the message adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatenv_client.models import ChatAction, Message


def action_from_message(message: Mapping[str, Any], tokenizer: Any) -> ChatAction:
    """An action that carries the message, with its tokens as the tokenizer's chat template writes it alone.

    Args:
        message: a chat message.
        tokenizer: anything with Hugging Face's `apply_chat_template`.
    """
    given: Message = dict(message)  # type: ignore[assignment]
    # transformers 5 returns a BatchEncoding unless told not to.
    tokens = tokenizer.apply_chat_template([given], tokenize=True, return_dict=False)
    return ChatAction(tokens=tokens, messages=(given,))
