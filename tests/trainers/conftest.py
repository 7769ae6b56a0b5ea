"""A server with a task, for adapters to play with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_server import Settings, serve
from tests.trainers.tasks import Echo


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Of a server with the embedded tokenizer and `Echo`."""
    with serve(Settings(listen=("127.0.0.1:0",)), task=Echo) as server:
        yield server.target
