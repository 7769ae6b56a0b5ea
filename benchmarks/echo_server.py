"""The floor: a bare gRPC server that answers as many bytes as it is asked for, of either kind that grpcio has.

A request begins with the length of its answer, four bytes, little-endian. Run as
`python -m benchmarks.echo_server threads|asyncio`; says its port in its first line.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

_ANSWERS = bytes(64 * 1024 * 1024)
_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_WORKERS = 8


def _answer(request: bytes) -> bytes:
    return _ANSWERS[: int.from_bytes(request[:4], "little")]


class _Threads(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method.endswith("/Stream"):
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(lambda request, _: _answer(request))

    def _stream(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        return map(_answer, requests)


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


def _serve_threads() -> None:
    server = grpc.server(ThreadPoolExecutor(_WORKERS), options=_OPTIONS)
    server.add_generic_rpc_handlers((_Threads(),))
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
    if sys.argv[1] == "threads":
        _serve_threads()
    else:
        asyncio.run(_serve_asyncio())
