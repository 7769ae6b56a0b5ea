"""A chatenv server in a process of its own, on a free port, for as long as a block lasts: a SIGTERM ends it too."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc


@contextmanager
def server_of(task: str, tokenizer: str = "bytes") -> Iterator[str]:
    """Serve a task of the examples; the server's address. For the main thread.

    Args:
        task: `module:Class`.
        tokenizer: `bytes` (built in), a folder, or a Hugging Face name.

    Raises:
        RuntimeError: it does not start. What it says of that goes to standard error.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    options = ["--listen", address, "--task", task, "--tokenizer", tokenizer, "--log-level", "warning"]
    examples = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    # By itself, SIGTERM would end this process alone. As an exception it leaves the block, and the server ends first.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    process = subprocess.Popen(
        [sys.executable, "-m", "chatenv_server", *options], env={**os.environ, "PYTHONPATH": examples}
    )
    try:
        wait_for(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)
        signal.signal(signal.SIGTERM, before)


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server takes calls."""
    with grpc.insecure_channel(address) as channel:
        ready = grpc.channel_ready_future(channel)
        while process.poll() is None:
            with suppress(grpc.FutureTimeoutError):
                return ready.result(timeout=0.5)
    raise RuntimeError(f"the server at {address} ended with {process.returncode} before it served")
