"""Refuses a forked process, in which gRPC hangs beyond every deadline, rather than let it hang.

gRPC's threads do not survive a fork, and a child that uses its parent's channel breaks it for the parent too
(seen with grpcio 1.71 and 1.85). With GRPC_ENABLE_FORK_SUPPORT=1 in the environment when grpc is imported,
a child may open clients of its own. Processes made by spawn or forkserver are not concerned.
"""

from __future__ import annotations

import os
from typing import Final

_SUPPORT_VARIABLE: Final = "GRPC_ENABLE_FORK_SUPPORT"


class ProcessGuard:
    """Remembers the process that a client was made in. One guard a client, checked before each call."""

    _first_process: int | None = None
    """The process in which the first guard was made; forked children inherit the number."""

    def __init__(self) -> None:
        self._process = os.getpid()
        if ProcessGuard._first_process is None:
            ProcessGuard._first_process = self._process

    def check(self) -> None:
        """Let calls through in the process where they can work.

        Raises:
            RuntimeError: this process was forked from the client's, or from one that has used gRPC.
        """
        process = os.getpid()
        if process != self._process:
            raise RuntimeError("this client was made before a fork; open one of its own in each process")
        if process != ProcessGuard._first_process and not _fork_is_supported():
            raise RuntimeError(
                "this process was forked from one that has used gRPC, which would hang here; start processes "
                f"with 'spawn' or 'forkserver', or set {_SUPPORT_VARIABLE}=1 before grpc is first imported"
            )


def _fork_is_supported() -> bool:
    return os.environ.get(_SUPPORT_VARIABLE, "").lower() in {"1", "true", "yes"}
