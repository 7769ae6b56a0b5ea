"""A process that writes entry after entry into a store, until somebody kills it."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from chatenv_server.stores.opening import open_store
from tests.stores.model import append, begin
store = open_store(sys.argv[1])
store.write([begin("a", held=0)])
version = 0
while True:
    assert store.write([append("a", version, b"%d" % version * 300, held=version + 1)]) == [True]
    version += 1
    print(version, flush=True)
"""


def start_writer(url: str) -> subprocess.Popen[str]:
    """The process, once its first entry was acknowledged."""
    command = [sys.executable, "-c", _PROGRAM, url]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    return writer


def acknowledged(writer: subprocess.Popen[str]) -> int:
    """How many entries the store had acknowledged when the process, or the store, was killed."""
    return int(writer.communicate()[0].split("\n")[-2] or 0)
