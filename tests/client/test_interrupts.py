"""Ctrl-C at any instruction of a call: it ends the call, and the client goes on or closes as if nothing had been."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

SERVER = """
import signal
from tests.client.strange_server import StrangeServer

server = StrangeServer()
print(server.address, flush=True)
signal.pause()
"""

PROGRAM = """
import random, signal, sys
from chatenv_client import ChatEnv, VectorChatEnv

address = sys.argv[2]
signal.signal(signal.SIGALRM, signal.default_int_handler)
draw = random.Random(0)
for number in range(200):
    try:
        with ChatEnv(address) if sys.argv[1] == "one" else VectorChatEnv(address, 8) as env:
            env.reset()
            try:
                # Pressed again where the first came into a `__del__`: Python tells nobody of that.
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.001, 0.01), 0.2)
                while True:
                    env.reset()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                if number % 2:
                    env.reset(timeout_s=10)
    except KeyboardInterrupt:
        pass
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="nothing interrupts a program in time")
@pytest.mark.parametrize("clients", ["one", "many"])
def test_a_client_that_ctrl_c_interrupts_anywhere_goes_on_or_closes(clients: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        try:
            command = [sys.executable, "-c", PROGRAM, clients, address]
            subprocess.run(command, cwd=CHECKOUT, check=True, timeout=90)
        finally:
            server.kill()
