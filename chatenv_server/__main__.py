"""The command `chatenv-server`: reads the settings, serves until it is told to end, drains."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final

# What gRPC's core has to say it writes past the log, and any caller can make it say something. It reads this when it is
# first imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from chatenv_client._version import __version__
from chatenv_client.distribution import MissingExtraError, needing

EXIT_FAILED: Final = 1
"""An address cannot be served on, or calls had to be cut off at the end."""
EXIT_SETTING: Final = 2
"""A setting is wrong, or the server is not installed; argparse has the same."""

try:
    with needing("server", "chatenv-server"):
        from chatenv_server.observing.logs import configure_logging
        from chatenv_server.running.backend import Backend
        from chatenv_server.running.process import RunningServer
        from chatenv_server.settings.errors import BindError, SettingError
        from chatenv_server.settings.settings import Settings, read_settings
        from chatenv_server.tokenizer_files.loading import torch_hidden
except MissingExtraError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(EXIT_SETTING)

_LOOK_S: Final = 0.5

_LOG: Final = logging.getLogger("chatenv_server")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
        configure_logging(settings.log_level, settings.log_format)
        return _serve(settings)
    except (SettingError, BindError) as error:
        sys.stderr.write(f"chatenv-server: {error}\n")
        return EXIT_SETTING if isinstance(error, SettingError) else EXIT_FAILED


def _serve(settings: Settings) -> int:
    asked_to_end = _catch_signals()
    server = RunningServer(settings, has_transform=bool(settings.transform))
    try:
        with torch_hidden():
            backend = Backend(settings, telemetry=server.observers.telemetry)
        _tidy_memory()
        server.serve(backend)
        _LOG.info(
            "serving",
            extra={
                "addresses": ",".join(server.addresses),
                "tokenizer": backend.tokenizer_name,
                "version": __version__,
                "metrics": server.observers.metrics_address,
            },
        )
        _wait_for(asked_to_end)
        _LOG.info("draining", extra={"grace_s": settings.drain_grace})
    finally:
        finished = server.stop()
    if finished:
        _LOG.info("stopped")
        return 0
    _LOG.warning("stopped, and cut off calls that did not finish within the grace")
    logging.shutdown()
    os._exit(EXIT_FAILED)  # a thread that hangs in a transform would keep the interpreter from ending


def _catch_signals() -> SimpleQueue[int]:
    """A queue that gets the first SIGTERM or SIGINT; the second ends the process at once.

    Handlers of our own also make it end as PID 1, for which the system has none.
    """
    received: SimpleQueue[int] = SimpleQueue()  # the one queue that may be written by a signal handler

    def handle(number: int, _frame: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, lambda *_: os._exit(EXIT_FAILED))
        received.put(number)

    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        signal.signal(number, handle)
    return received


def _wait_for(asked_to_end: SimpleQueue[int]) -> None:
    """Wait for the first signal. One that comes just before the wait begins does not end it, so this looks again."""
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


if __name__ == "__main__":
    sys.exit(main())
