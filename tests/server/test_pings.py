"""How often a client may ping: as often as Go's, which send one every ten seconds."""

from __future__ import annotations

import socket
import time

import pytest

from chatenv_client.channel import KEEPALIVE_TIME_MS
from chatenv_server.running import process
from tests.server.conftest import Serve

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
PING = b"\0\0\x08\x06\0\0\0\0\0" + b"are here"
GOAWAY = 7


def pings_answered(address: str, *, pause_s: float) -> int:
    """How many of ten pings a server answers before it hangs up, with no call on the connection."""
    host, _, port = address.rpartition(":")
    answered = 0
    with socket.create_connection((host, int(port)), timeout=5) as connection, connection.makefile("rb") as reader:
        connection.sendall(PREFACE + SETTINGS)
        for _ in range(10):
            connection.sendall(PING)
            while (frame := reader.read(9))[3:5] != b"\x06\x01":  # until the answer to the ping
                if not frame or frame[3] == GOAWAY:
                    return answered
                reader.read(int.from_bytes(frame[:3], "big"))
            reader.read(8)
            answered += 1
            time.sleep(pause_s)
    return answered


def test_clients_of_ours_and_of_go_ping_less_often_than_the_server_wants() -> None:
    assert 0.5 * min(KEEPALIVE_TIME_MS, 10_000) >= process.SHORTEST_PING_PAUSE_MS


def test_a_client_that_pings_without_calls_is_let_be_unless_it_pings_too_often(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pings_answered(serve().addresses[0], pause_s=0.05) < 10
    monkeypatch.setattr(process, "SHORTEST_PING_PAUSE_MS", 20)
    assert pings_answered(serve().addresses[0], pause_s=0.05) == 10
