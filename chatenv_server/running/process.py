"""A server in this process, from its start to its end: bind, load, serve, drain."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from chatenv_client._generated import chatenv_pb2_grpc as pb_grpc
from chatenv_client.errors import StoreUnavailableError
from chatenv_client.health import SERVICE
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.transforms import Transform
from chatenv_server.observing.observers import Observers
from chatenv_server.observing.telemetry import Levels
from chatenv_server.rpc import health
from chatenv_server.rpc.access import BearerToken
from chatenv_server.rpc.crew import Crew
from chatenv_server.rpc.failures import FailureLog
from chatenv_server.rpc.gate import Gate
from chatenv_server.rpc.guard import CallGuard
from chatenv_server.rpc.reflection import reflected_schemas
from chatenv_server.rpc.servicer import ChatEnvServicer
from chatenv_server.rpc.waiting import Sweeper
from chatenv_server.running.backend import Backend
from chatenv_server.running.listeners import Listeners, reachable
from chatenv_server.settings.settings import Settings, wrong_setting
from chatenv_server.stores.store import Store
from chatenv_server.tasks.choice import TaskMaker, Tasks
from chatenv_server.workers import INLINE

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_HEADER_BYTES: Final = 8192
"""All headers of a call together, each with 32 bytes on top, as HTTP/2 counts them."""
SHORTEST_PING_PAUSE_MS: Final = 5_000
"""Between pings of a client; gRPC hangs up on one that pings more often. Go's clients may ping every 10 s, ours 30."""

_NONE_AND_GZIP: Final = 0b101

_LONGEST_EXPIRY_PAUSE_S: Final = 10.0
_STORE_CHECK_PAUSE_S: Final = 1.0
_LAST_ANSWERS_S: Final = 1.0
_LAST_CLOSINGS_S: Final = 1.0
"""At least so long tasks have to close at the end."""

_LOG: Final = logging.getLogger(__name__)


def start(
    settings: Settings,
    *,
    engine: TokenEngine | None = None,
    open_transform: Callable[[], Transform] | None = None,
    task: TaskMaker | Mapping[str, TaskMaker] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    clock: Callable[[], float] | None = None,
) -> RunningServer:
    """Start a server in this process; returns when it serves. Public as `chatenv_server.serve`.

        with serve(Settings(listen=("127.0.0.1:0",))) as server, ChatEnv(server.target) as env:
            ...

    Args:
        settings: the operator's.
        engine: takes the place of the tokenizer in the settings.
        open_transform: gives each episode its transform; takes the place of the one in the settings.
        task: what answers: a subclass of `Task`, or several by name; takes the place of those in the settings.
        rows: data for it.
        clock: seconds, for the expiry of idle episodes; None: the machine's.

    Raises:
        SettingError: a setting turned out to be wrong.
        BindError: an address cannot be served on.
    """
    if settings.processes > 1:
        raise wrong_setting("processes", "is more than 1, and only the command chatenv-server starts processes")
    tasks = None if task is None and rows is None else Tasks.of(task, rows)
    server = RunningServer(settings, waits=bool(settings.transform or open_transform or settings.task or tasks))
    try:
        server.open()
        telemetry = server.observers.telemetry
        server.serve(
            Backend(
                settings, engine=engine, open_transform=open_transform, tasks=tasks, clock=clock, telemetry=telemetry
            )
        )
    except BaseException:
        server.stop(0)
        raise
    return server


class RunningServer:
    """A server that is reached after `open`, and lets calls in after `serve`.

    Open and not serving it answers health with NOT_SERVING and everything else with UNAVAILABLE. As a context manager
    it stops at the end.
    """

    addresses: tuple[str, ...] = ()
    """Where it is open, with real ports."""

    def __init__(self, settings: Settings, *, waits: bool) -> None:
        self._settings = settings
        self._listeners: Listeners | None = None
        self._gate = Gate(settings.max_concurrent_calls)
        self._health = health.Health(("", SERVICE))
        self._idle_timeout_s = settings.idle_timeout
        self._expiry: Sweeper | None = None
        self._store_watch: Sweeper | None = None
        self._backend: Backend | None = None
        self._drain_grace_s = settings.drain_grace
        self.observers = Observers(settings)
        token = _bearer_token(settings)
        self._crew = Crew(
            self._gate,
            max_calls=settings.max_concurrent_calls,
            max_bytes=settings.max_bytes_in_flight,
            max_request_bytes=settings.max_message_bytes,
            waits=waits,
            has_store=settings.store != "memory",
            tasks=[] if token is None else [token.refresh],
        )
        failures = FailureLog(self.observers.telemetry)
        self._servicer = ChatEnvServicer(
            self._gate,
            failures,
            self._crew.traffic,
            self._crew.work_on_next_step,
            max_batch_items=settings.max_batch_items,
            max_message_bytes=settings.max_message_bytes,
            max_text_bytes=settings.max_text_bytes,
            waits=waits,
        )
        guard = CallGuard(self._crew, failures, token)
        self._server = _make_server(settings, [*self.observers.interceptors, guard])
        pb_grpc.add_ChatEnvServiceServicer_to_server(self._servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = (SERVICE, health.SERVICE, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server, pool=reflected_schemas())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def target(self) -> str:
        """What a client on this machine connects to: the first address."""
        return reachable(self.addresses[0])

    def open(self) -> None:
        """Bind the addresses, and answer there.

        Raises:
            BindError: an address cannot be served on.
            SettingError: the certificates do not work.
        """
        self._listeners = Listeners(self._server, self._settings)
        self.addresses = self._listeners.addresses
        self._server.start()

    def serve(self, backend: Backend) -> None:
        """Let calls in."""
        episodes = backend.episodes
        backend.attach_to(self._servicer)
        self.observers.telemetry.watch(
            lambda: Levels(
                calls=self._gate.in_flight,
                episodes=episodes.live_episodes,
                tokens=episodes.live_tokens,
                held_episodes=episodes.held_episodes,
                held_tokens=episodes.held_tokens,
            )
        )
        self._backend = backend
        self._gate.open()
        self._health.set_serving(True)
        if backend.store is not None:
            self._store_watch = Sweeper([partial(self._watch_store, backend.store)], _STORE_CHECK_PAUSE_S)
        if self._idle_timeout_s:
            pause_s = min(self._idle_timeout_s / 4, _LONGEST_EXPIRY_PAUSE_S)
            self._expiry = Sweeper([episodes.expire_idle], pause_s)

    def _stop_grpc(self, grace_s: float) -> None:
        """Let calls that came meanwhile get their refusal, which callers try again, and cut off who is still there.

        That is who watches health, or does not read.
        """
        if grace_s > 0:
            with suppress(RuntimeError):  # gRPC takes a thread for this, and there may be none
                self._server.stop(grace_s).wait(grace_s)
        self._server.stop(None)

    def _watch_store(self, store: Store) -> None:
        """Say whether the store answers: while it does not, other servers are to get the calls."""
        try:
            store.check()
        except StoreUnavailableError as error:
            if self._health.serves:
                _LOG.error("store unavailable", extra={"store": store.name, "error": str(error)})
            self._health.set_serving(False)
        else:
            if not self._health.serves and self._gate.is_open:
                _LOG.info("store available again", extra={"store": store.name})
                self._health.set_serving(True)

    def stop(self, grace_s: float | None = None) -> bool:
        """Let nobody in any more, and let calls in flight finish; whether all did.

        Args:
            grace_s: seconds that they have; None: those of the settings.
        """
        grace_s = self._drain_grace_s if grace_s is None else grace_s
        until = time.monotonic() + grace_s
        for sweeper in (self._expiry, self._store_watch):
            if sweeper is not None:
                sweeper.close()
        self._health.set_serving(False)
        finished = self._gate.drain(grace_s)
        self._crew.traffic.wait_until_taken(until - time.monotonic())
        self._stop_grpc(min(until - time.monotonic(), _LAST_ANSWERS_S))
        if self._listeners is not None:
            self._listeners.close()
        if self._backend is not None:
            self._backend.episodes.close_tasks(max(_LAST_CLOSINGS_S, until - time.monotonic()))
        self._crew.close()
        self.observers.close()
        if self._backend is not None:
            self._backend.close()
        return finished


def _make_server(settings: Settings, interceptors: list[grpc.ServerInterceptor]) -> grpc.Server:
    return grpc.server(
        INLINE,  # each method of ours names its threads
        interceptors=interceptors,
        options=[
            # Else a second server on the same port would get half of the calls, and half of the episodes. Where
            # processes share it, their parent holds the port and lets nobody else in; see `shared_port`.
            ("grpc.so_reuseport", int(settings.processes > 1)),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            # Requests are unpacked by `Parser`, within bounds; gRPC would do it first and look afterwards.
            ("grpc.per_message_decompression", 0),
            ("grpc.compression_enabled_algorithms_bitset", _NONE_AND_GZIP),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            # By default gRPC refuses headers between 8 and 16 KiB now and then, by chance.
            ("grpc.max_metadata_size", MAX_HEADER_BYTES),
            ("grpc.absolute_max_metadata_size", MAX_HEADER_BYTES),
            ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_PAUSE_MS),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )


def _bearer_token(settings: Settings) -> BearerToken | None:
    if not (settings.bearer_token or settings.bearer_token_file):
        return None
    try:
        return BearerToken(settings.bearer_token, settings.bearer_token_file)
    except (OSError, ValueError) as error:
        name = "bearer_token_file" if settings.bearer_token_file else "bearer_token"
        raise wrong_setting(name, f"does not work: {error}") from error
