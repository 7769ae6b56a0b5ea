"""Real backends for tests of stores: SQLite files, and Redis servers that are started for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_server.stores.sqlite import SqliteStore
from chatenv_server.stores.store import Store

OpenStore = Callable[[], Store]
"""Opens one more store on the same backend, which was empty at first."""


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    """Each kind of backend."""
    with ExitStack() as opened:

        def open_one() -> Store:
            store = SqliteStore(tmp_path / "episodes.db")
            opened.callback(store.close)
            return store

        yield open_one


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """An empty store of each kind."""
    return open_store()
