"""Starts the threads that a call takes beside its own. The machine may give none."""

from __future__ import annotations

import threading
from collections.abc import Callable

from chatenv_client.errors import ServerBusyError


def start_thread(work: Callable[[], object], name: str) -> None:
    """Do `work` in a thread of its own: a daemon, because one that hangs must not keep the server from ending.

    Raises:
        ServerBusyError: the machine gives no thread for it.
    """
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError as error:
        raise ServerBusyError("this machine gives the server no more threads; try again later") from error
