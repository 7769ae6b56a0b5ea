"""Forked processes: gRPC does not work in them, so calls there are refused rather than left hanging.

gRPC's threads do not survive a fork, and a child that uses its parent's channel breaks it for the parent, too (seen
with grpcio 1.71 and 1.85). Processes made by spawn or forkserver are not concerned, nor are episodes that are played
in-process.

Where GRPC_ENABLE_FORK_SUPPORT is on, gRPC has work done around each fork, and a child hangs in it for ever, whatever it
wanted to do, if another thread was in a call. So forks wait for calls then.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Final

_SUPPORT_VARIABLE: Final = "GRPC_ENABLE_FORK_SUPPORT"


class ProcessGuard:
    """Remembers the process that a client was made in. One guard a client, checked before each call.

    Args:
        uses_grpc: whether the client does.
    """

    _first_process: int | None = None
    """The process in which gRPC was first used; forked children inherit the number."""

    def __init__(self, *, uses_grpc: bool = True) -> None:
        self._process = os.getpid()
        self._uses_grpc = uses_grpc
        if uses_grpc and ProcessGuard._first_process is None:
            ProcessGuard._first_process = self._process

    @property
    def is_of_parent(self) -> bool:
        """Whether the client is that of a process that this one was forked from."""
        return os.getpid() != self._process

    def check(self) -> None:
        """Let calls through in the process where they can work.

        Raises:
            RuntimeError: this process was forked from the client's, or from one that has used gRPC.
        """
        process = os.getpid()
        if process != self._process:
            raise RuntimeError("this client was made before a fork; open one of its own in each process")
        if self._uses_grpc and process != ProcessGuard._first_process:
            raise RuntimeError(
                "this process was forked from one that has used gRPC, which would hang here; start processes "
                "with 'spawn' or 'forkserver'"
            )


class _Calls:
    """Blocking calls in flight. A fork waits until there are none, and new ones wait for the fork."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._in_flight = 0
        self._forks = False
        """Whether somebody waits to fork, or does."""
        os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._after)

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._forks)
            self._in_flight += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def _before(self) -> None:
        self._changed.acquire()  # until it is over
        self._forks = True
        self._changed.wait_for(lambda: not self._in_flight)

    def _after(self) -> None:
        self._forks = False
        self._changed.notify_all()
        self._changed.release()


def _is_on(value: str) -> bool:
    return value.lower() in {"1", "true", "yes", "on"}


FORKS_WAIT: Final[AbstractContextManager[None]] = (
    _Calls() if _is_on(os.environ.get(_SUPPORT_VARIABLE, "")) else nullcontext()
)
"""A block that makes blocking calls: where gRPC has work done around forks, they wait for its end."""
