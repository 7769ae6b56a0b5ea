"""The environment on the embedded tokenizer, and what a model says in it."""

from __future__ import annotations

from typing import Any, Final

import pytest

from chatenv_client import ChatAction
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer

END: Final = 257
"""The token that ends a turn."""
QUESTION: Final = {"role": "user", "content": "What is two plus three?"}


@pytest.fixture(scope="session")
def engine() -> TokenEngine:
    """The embedded tokenizer's engine, probed once."""
    return TokenEngine.load(ByteTokenizer())


@pytest.fixture
def env(engine: TokenEngine) -> ChatEnvironment:
    """An episode in which a question was asked."""
    environment = ChatEnvironment(engine)
    environment.reset(messages=[QUESTION], clock=0.0)
    return environment


def said(text: str, **fields: Any) -> ChatAction:
    """A sampled turn of this text, to its end."""
    return ChatAction(tokens=[*text.encode(), END], **fields)
