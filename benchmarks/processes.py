"""What more processes behind one address give: whole rates, client included, beside those of one process.

All of them share a SQLite file, one for each server. The client is `VectorChatEnv`, which opens a connection to each
process, and runs on the same cores.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import load, servers
from benchmarks.measure import Contestant, Figure, interleave
from benchmarks.turns import Conversation
from benchmarks.work import Subject, conversation

EPISODES: Final = 256
SAMPLED_TOKENS: Final = 128
_MOST: Final = 8


def counts() -> list[int]:
    """How many processes are measured here: one, then twice as many each time, up to the cores."""
    cores = os.cpu_count() or 1
    return [n for n in (1, 2, 4, 8) if n <= max(2, min(cores, _MOST))]


def name_of(n: int) -> str:
    """What a contestant is called."""
    return f"{n} process{'es' if n > 1 else ''}"


def measure(subject: Subject, turns: int, rounds: int, run: Executor) -> dict[str, Figure]:
    """Steps per second of VectorChatEnv, by the number of processes."""
    said = [conversation(subject, turns, SAMPLED_TOKENS, seed) for seed in range(EPISODES)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contestants: dict[str, Contestant] = {}
        for n in counts():
            arguments = ("--processes", str(n), "--store", f"sqlite://{folder / f'{n}.db'}")
            target = stack.enter_context(servers.chatenv(subject.setting, arguments=arguments)).target
            contestants[name_of(n)] = partial(_ask, run, target, said)
        for warm_up in contestants.values():
            warm_up()
        return interleave(contestants, rounds, "steps/s")


def _ask(run: Executor, target: str, said: list[Conversation]) -> float:
    return run.submit(load.spread_vector_steps, target, said).result()
