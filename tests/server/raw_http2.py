"""A caller that speaks raw HTTP/2, and so can do what no gRPC client does: send half a call, or read no answer."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes

if TYPE_CHECKING:
    from typing_extensions import Self

STEP = "/chatenv.v1.ChatEnvService/Step"
HEALTH = "/grpc.health.v1.Health/Check"


class RawCaller:
    """One connection. Calls on it are numbered by their HTTP/2 streams.

    Args:
        address: HOST:PORT of the server.
        window: bytes of each answer that it is ready to read; 0: none.
    """

    def __init__(self, address: str, window: int = 65_535) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._connection: Any = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._authority = address
        self._connection.initiate_connection()
        self._connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()
        self.statuses: dict[int, str] = {}
        """The gRPC status, as a number, of each call that has ended; `reset` for one that was cut off."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def open(self, path: str, headers: Mapping[str, str] | None = None, *, flush: bool = True) -> int:
        """Send the headers of a call, and no more; the call's number."""
        number: int = self._connection.get_next_available_stream_id()
        fixed = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        self._connection.send_headers(number, [*fixed, *(headers or {}).items()])
        if flush:
            self.flush()
        return number

    def call(self, path: str, request: bytes, headers: Mapping[str, str] | None = None, *, flag: int = 0) -> int:
        """Send a whole call; its number."""
        number = self.open(path, headers, flush=False)
        self.send(number, framed(request, flag), end=True)
        return number

    def send(self, number: int, data: bytes, *, end: bool = False) -> None:
        """Send data of a call, as fast as the server takes it."""
        view = memoryview(data)
        while view:
            room = min(self._connection.local_flow_control_window(number), self._connection.max_outbound_frame_size)
            if room <= 0:
                self.flush()
                self.read()
                continue
            self._connection.send_data(number, bytes(view[:room]))
            view = view[room:]
            self.flush()
        if end:
            self._connection.end_stream(number)
        self.flush()

    def flush(self) -> None:
        """Put on the wire what is to be sent."""
        self._socket.sendall(self._connection.data_to_send())

    def read(self, timeout_s: float = 10) -> bool:
        """Read what has come, for as long at most; whether the connection goes on."""
        self._socket.settimeout(timeout_s)
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            received = self._socket.recv(1 << 16)
            if not received:
                return False
            self._take(self._connection.receive_data(received))
            self.flush()
        return bool(received)

    def ended(self, numbers: Sequence[int], timeout_s: float = 20) -> bool:
        """Whether all those calls end in time."""
        while not self.statuses.keys() >= set(numbers):
            if not self.read(timeout_s):
                return False
        return True

    def _take(self, events: Sequence[object]) -> None:
        for event in events:
            if isinstance(event, DataReceived):
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, TrailersReceived | ResponseReceived):
                headers: Any = event.headers or ()
                found = dict(headers).get("grpc-status")
                if found is not None:
                    self.statuses[event.stream_id or 0] = str(found)
            elif isinstance(event, StreamReset | StreamEnded):
                self.statuses.setdefault(event.stream_id or 0, "reset")


def framed(request: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message with its prefix; `flag` 1 says that it is compressed, `length` lies about its length."""
    return struct.pack(">BI", flag, len(request) if length is None else length) + request
