"""Serves in this process until it is told to end, then drains: alone, or as one of several processes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from chatenv_client._version import __version__
from chatenv_server.running.backend import Backend
from chatenv_server.running.process import RunningServer
from chatenv_server.running.signals import catch_signals
from chatenv_server.settings.settings import Settings
from chatenv_server.tokenizer_files.loading import torch_hidden

EXIT_FAILED: Final = 1
"""An address cannot be served on, or calls had to be cut off at the end."""
EXIT_SETTING: Final = 2
"""A setting is wrong, or the server is not installed; argparse has the same."""

_LOOK_S: Final = 0.5

_LOG: Final = logging.getLogger(__name__)

AskedToEnd = SimpleQueue[None]
"""Gets something when the process is to drain; the one queue that may be written by a signal handler."""


def asked_by_signals() -> AskedToEnd:
    """A queue that the first SIGTERM or SIGINT fills; the second ends the process at once."""
    asked_to_end: AskedToEnd = SimpleQueue()
    catch_signals(lambda: asked_to_end.put(None), lambda: os._exit(EXIT_FAILED))
    return asked_to_end


def serve_alone(settings: Settings, asked_to_end: AskedToEnd) -> int:
    """Serve until asked to end; the exit code. The addresses are bound first, so that a wrong one is told at once.

    Raises:
        BindError: an address cannot be served on.
        SettingError: a setting turned out to be wrong.
    """
    server = RunningServer(settings, waits=bool(settings.transform or settings.task))
    try:
        server.open()
        backend = _load(settings, server, 1)
        server.serve(backend)
        _LOG.info(
            "serving",
            extra={
                "addresses": ",".join(server.addresses),
                "tokenizer": backend.tokenizer_name,
                "version": __version__,
                "metrics": server.observers.metrics_address,
                "processes": 1,
            },
        )
        _wait_for(asked_to_end)
        _LOG.info("draining", extra={"grace_s": settings.drain_grace})
    finally:
        finished = server.stop()
    return _end(finished=finished)


def serve_among_others(
    settings: Settings, number: int, asked_to_end: AskedToEnd, on_ready: Callable[[dict[str, str]], object]
) -> int:
    """Serve as one of several processes until asked to end; the exit code.

    The addresses are bound last: connections come to those processes alone that can serve them.

    Args:
        settings: of this process; see `Settings.of_process`.
        number: of this process, from 1 on.
        asked_to_end: when to drain.
        on_ready: is told of its `tokenizer` and `metrics` address when it serves.

    Raises:
        BindError: an address cannot be served on.
        SettingError: a setting turned out to be wrong.
    """
    server = RunningServer(settings, waits=bool(settings.transform or settings.task))
    try:
        backend = _load(settings, server, number)
        server.serve(backend)
        server.open()
        _LOG.info("process ready", extra={"pid": os.getpid(), "metrics": server.observers.metrics_address})
        for handler in logging.getLogger().handlers:
            handler.flush()  # it stands in the log before the parent says that all serve
        on_ready({"tokenizer": backend.tokenizer_name, "metrics": server.observers.metrics_address})
        _wait_for(asked_to_end)
        _LOG.info("process draining", extra={"grace_s": settings.drain_grace})
    finally:
        finished = server.stop()
    return _end(finished=finished)


def _load(settings: Settings, server: RunningServer, number: int) -> Backend:
    with torch_hidden():
        backend = Backend(settings, telemetry=server.observers.telemetry, process=number)
    _tidy_memory()
    return backend


def _end(*, finished: bool) -> int:
    if finished:
        _LOG.info("stopped")
        return 0
    _LOG.warning("stopped, and cut off calls that did not finish within the grace")
    logging.shutdown()
    os._exit(EXIT_FAILED)  # a thread that hangs in a transform would keep the interpreter from ending


def _wait_for(asked_to_end: AskedToEnd) -> None:
    """Wait until asked. A signal that comes just before the wait begins does not end it, so this looks again."""
    while True:
        with contextlib.suppress(Empty):
            asked_to_end.get(timeout=_LOOK_S)
            return


def _tidy_memory() -> None:
    """Return the memory that loading needed and serving does not: with Qwen2.5 a fifth of the whole."""
    gc.collect()
    gc.freeze()
    # A step makes some twenty objects that live as long as their episode. There are no cycles among the youngest
    # thousands of them.
    gc.set_threshold(10_000)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
