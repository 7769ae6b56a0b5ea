"""The floor: a bare gRPC server that answers as many bytes as it is asked for, of either kind that grpcio has.

A request begins with the length of its answer, four bytes, little-endian; behind them stands a StepRequest, or anything
of its length. Run as `python -m benchmarks.echo_server threads|asyncio`, or as `... threads TOKENIZER`, which does the
least work that the Step asks for, and throws it away. Says its port in its first line.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

from benchmarks.work import LeastWork, Subject
from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb

_ANSWERS = bytes(64 * 1024 * 1024)
_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_WORKERS = 8


def _answer(request: bytes) -> bytes:
    return _ANSWERS[: int.from_bytes(request[:4], "little")]


def _working(work: LeastWork) -> Callable[[bytes], bytes]:
    def answer(request: bytes) -> bytes:
        step = pb.StepRequest.FromString(request[4:])
        if step.tokens:
            work.read(list(step.tokens))
        else:
            work.write(dict(wire.message_from_proto(step.messages[0])))
        return _answer(request)

    return answer


class _Threads(grpc.GenericRpcHandler):
    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method.endswith("/Stream"):
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(lambda request, _: self._answer(request))

    def _stream(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        return map(self._answer, requests)


class _Asyncio(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method.endswith("/Stream"):
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._unary)

    async def _unary(self, request: bytes, _: Any) -> bytes:
        return _answer(request)

    async def _stream(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield _answer(request)


def _serve_threads(answer: Callable[[bytes], bytes]) -> None:
    server = grpc.server(ThreadPoolExecutor(_WORKERS), options=_OPTIONS)
    server.add_generic_rpc_handlers((_Threads(answer),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


async def _serve_asyncio() -> None:
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_Asyncio(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[1] == "asyncio":
        asyncio.run(_serve_asyncio())
    else:
        _serve_threads(_working(LeastWork(Subject("", sys.argv[2]))) if sys.argv[2:] else _answer)
