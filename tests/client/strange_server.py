"""A real server that answers each method with bytes of a test's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import Message as ProtoMessage

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.models import ChatObservation

JUNK = b"\xff\xff\xff"

Answer = Callable[[bytes, Any], bytes]


class StrangeServer(grpc.GenericRpcHandler):
    """Answers each method with bytes of a test's own. Without them it opens and closes episodes rightly."""

    def __init__(self, port: int = 0) -> None:
        self.answers: dict[str, Answer] = {}
        self._server = grpc.server(ThreadPoolExecutor(8), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        self._server.start()

    def service(self, handler_call_details: Any) -> Any:
        name = handler_call_details.method.rpartition("/")[2]
        answer = self.answers.get(name, _RIGHT.get(name))
        return None if answer is None else grpc.unary_unary_rpc_method_handler(answer)

    def stop(self) -> None:
        self._server.stop(0)


def opened(reset: pb.ResetRequest) -> pb.ResetResponse:
    response = pb.ResetResponse()
    wire.write_observation(response.observation, ChatObservation(episode_id=reset.episode_id))
    return response


def open_one(request: bytes, _context: Any) -> bytes:
    return opened(pb.ResetRequest.FromString(request)).SerializeToString()


def open_all(request: bytes, _context: Any) -> bytes:
    resets = pb.BatchResetRequest.FromString(request).resets
    results = [pb.BatchResetResult(response=opened(reset)) for reset in resets]
    return pb.BatchResetResponse(results=results).SerializeToString()


def constant(message: ProtoMessage | bytes) -> Answer:
    encoded = message if isinstance(message, bytes) else message.SerializeToString()
    return lambda _request, _context: encoded


def failing(code: grpc.StatusCode, details: bytes) -> Answer:
    def fail(_request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(code, "what the server says")
        raise AssertionError

    return fail


def hang(_request: bytes, context: Any) -> bytes:
    while context.is_active():
        time.sleep(0.01)
    return b""


_RIGHT: dict[str, Answer] = {
    "Reset": open_one,
    "BatchReset": open_all,
    "CloseEpisode": constant(b""),
    "GetServerInfo": constant(b""),
}


def failing_once(then: Answer) -> Answer:
    failures = iter([failing(grpc.StatusCode.UNAVAILABLE, b"")])

    def answer(request: bytes, context: Any) -> bytes:
        return next(failures, then)(request, context)

    return answer
