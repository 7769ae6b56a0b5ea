"""A strange server for the tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.strange_server import StrangeServer


@pytest.fixture(scope="module")
def running() -> Iterator[StrangeServer]:
    server = StrangeServer()
    yield server
    server.stop()


@pytest.fixture
def server(running: StrangeServer) -> StrangeServer:
    running.answers.clear()
    return running
