"""A run of a journal is no other's."""

from __future__ import annotations

import subprocess
import sys

from chatenv_server.stores.store import new_run

FORKED = """
import os
from chatenv_server.stores.store import new_run
for _ in range(2):
    if os.fork() == 0:
        os.write(1, f"{new_run()} ".encode())
        os._exit(0)
    os.wait()
os.write(1, new_run().encode())
"""


def test_runs_differ() -> None:
    assert len({new_run() for _ in range(1000)}) == 1000


def test_forked_processes_choose_other_runs() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True)
    runs = done.stdout.split()
    assert len(runs) == len(set(runs)) == 3
