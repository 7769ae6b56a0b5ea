"""A channel to a server in this process, without any transport: a call is worked on in the thread that makes it.

Clients send and get the same bytes as over a wire, and the same servicer answers. Left out is what belongs to a wire:
threads, places, who may call, the expiry of idle episodes.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, cast

import grpc

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated import chatenv_pb2_grpc as pb_grpc
from chatenv_client._generated import status_pb2
from chatenv_client.calls import DETAILS_KEY
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.transforms import Transform, check_transform
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.rpc.failures import FailureLog, status_of
from chatenv_server.rpc.gate import Gate
from chatenv_server.rpc.requests import Parser
from chatenv_server.rpc.servicer import ChatEnvServicer
from chatenv_server.rpc.traffic import Load, Traffic
from chatenv_server.running.backend import Backend
from chatenv_server.settings.settings import Settings
from chatenv_server.tasks.choice import TaskMaker, Tasks

if TYPE_CHECKING:
    from typing_extensions import Self

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_SERVICE: Final = pb.DESCRIPTOR.services_by_name["ChatEnvService"]
_LAST_CLOSINGS_S: Final = 1.0
"""So long tasks have to close at the end."""


def open_in_process(
    tokenizer: str,
    *,
    task: TaskMaker | Mapping[str, TaskMaker] | str | None = None,
    rows: Sequence[Mapping[str, Any]] | str | None = None,
    transform: Transform | str = "",
    engine: TokenEngine | None = None,
    **settings: Any,
) -> InProcessChannel:
    """Load what a server serves, and open a channel to it.

    Args:
        tokenizer: as in the settings; empty: the embedded one.
        task: what answers: a subclass of `Task`, several by name, or as in the settings.
        rows: data for it, or as in the settings.
        transform: shapes each step: a function, a class, of which each episode gets an instance, or as in the settings.
        engine: takes the place of the tokenizer.
        **settings: fields of `Settings`.

    Raises:
        TypeError: there is no such setting, or something is no task or transform.
        SettingError: a setting is wrong.
    """
    if isinstance(task, str):
        settings["task"], task = (task,), None
    if isinstance(rows, str):
        settings["rows"], rows = (rows,), None
    open_transform = None
    if isinstance(transform, str):
        settings["transform"] = transform
    else:
        open_transform = _opener_of(transform)
    made = Settings(**{"tokenizer": tokenizer or Settings.tokenizer, "idle_timeout": 0.0, **settings})
    tasks = None if task is None and rows is None else Tasks.of(task, rows)
    return InProcessChannel(made, Backend(made, engine=engine, open_transform=open_transform, tasks=tasks))


def _opener_of(transform: Any) -> Callable[[], Transform]:
    """What gives each episode its transform: of a class, an instance."""
    open_transform: Any = transform if inspect.isclass(transform) else lambda: transform
    check_transform(open_transform())
    return cast("Callable[[], Transform]", open_transform)


class InProcessChannel(grpc.Channel):
    """As other channels to a chatenv server, but it leads nowhere else. Its calls are unary ones.

    A deadline cuts nothing off: it bounds only how long a call waits for others on its episode.
    """

    is_in_process = True

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self._backend = backend
        self._traffic = Traffic(settings.max_bytes_in_flight)
        self._most_bytes = settings.max_message_bytes
        self._handlers: Mapping[str, Any] = {}
        gate = Gate(settings.max_concurrent_calls)
        gate.open()
        servicer = ChatEnvServicer(
            gate,
            FailureLog(Telemetry()),
            self._traffic,
            lambda: None,
            max_batch_items=settings.max_batch_items,
            max_message_bytes=settings.max_message_bytes,
            max_text_bytes=settings.max_text_bytes,
            waits=True,
        )
        backend.attach_to(servicer)
        pb_grpc.add_ChatEnvServiceServicer_to_server(servicer, cast("grpc.Server", self))

    # What a servicer is added to.

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """The same methods in another form."""

    def add_registered_method_handlers(self, _service: str, handlers: Mapping[str, Any]) -> None:
        """Take the methods."""
        self._handlers = handlers

    # What a stub is made of.

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool = False,
    ) -> Any:
        """A method, to be called."""
        name = method.rpartition("/")[2]
        handler = self._handlers[name]
        schema = _SERVICE.methods_by_name[name].input_type
        parser = Parser(handler.request_deserializer, schema, self._most_bytes)

        def answer(request: Any, timeout_s: float | None) -> Any:
            encoded = request_serializer(request) if request_serializer else request
            load = Load(self._traffic, len(encoded))
            try:
                answered = handler.unary_unary(parser.message(encoded, load), _Caller(timeout_s))
            except Exception as error:
                raise _Refused(status_of(error)) from error
            finally:
                load.end()
            written = handler.response_serializer(answered)
            return response_deserializer(written) if response_deserializer else written

        return _Callable(answer)

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """A stream of calls, which gains nothing where there is no wire."""

        def refuse(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(f"{method} is not to be had in this process; make the calls one by one")

        return refuse

    unary_stream = stream_unary = stream_stream

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], object], try_to_connect: bool = False) -> None:
        """It is connected at all times."""

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], object]) -> None:
        """It is connected at all times."""

    def close(self) -> None:
        """Close the tasks of all episodes, and give the store up."""
        self._backend.episodes.close_tasks(_LAST_CLOSINGS_S)
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Callable:
    """A method, as stubs have them."""

    def __init__(self, answer: Callable[[Any, float | None], Any]) -> None:
        self._answer = answer

    def __call__(self, request: Any, timeout: float | None = None, **_: Any) -> Any:
        """The answer, or `grpc.RpcError`."""
        return self._answer(request, timeout)

    def with_call(self, request: Any, timeout: float | None = None, **_: Any) -> tuple[Any, None]:
        """The same, as interceptors ask for it."""
        return self._answer(request, timeout), None

    def future(self, request: Any, timeout: float | None = None, **_: Any) -> Future[Any]:
        """The same, when it is asked for its result."""
        future: Future[Any] = Future()
        try:
            future.set_result(self._answer(request, timeout))
        except grpc.RpcError as error:
            future.set_exception(error)
        return future


class _Caller:
    """Who waits for an answer, in place of a `grpc.ServicerContext`."""

    def __init__(self, timeout_s: float | None) -> None:
        self._ends = None if timeout_s is None else time.monotonic() + timeout_s

    def is_active(self) -> bool:
        """Nobody hangs up."""
        return True

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None: there is none."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())

    def add_callback(self, _callback: Callable[[], None]) -> bool:
        """Nobody hangs up."""
        return True

    def peer(self) -> str:
        """Who calls."""
        return "in-process"


class _Refused(grpc.RpcError):
    """A failed call, as gRPC raises it."""

    def __init__(self, status: status_pb2.RpcStatus) -> None:
        super().__init__(status.message)
        self._status = status

    def result(self) -> None:
        """What interceptors ask the outcome of a call for."""
        raise self

    def code(self) -> grpc.StatusCode:
        """Of the status."""
        return _CODES[self._status.code]

    def details(self) -> str:
        """Its message."""
        return self._status.message

    def trailing_metadata(self) -> Any:
        """The status itself, with its details."""
        return ((DETAILS_KEY, self._status.SerializeToString()),)
