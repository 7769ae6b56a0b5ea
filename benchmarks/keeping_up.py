"""Whether VectorChatEnv keeps up with what the server can do: beside BatchStep with recorded bytes, the same episodes.

Once on cores of their own, server and client, where the client's work costs the server nothing; once on all cores
together, where it does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context

from benchmarks import load, servers
from benchmarks.calls import batched
from benchmarks.load import SERVICE, Load
from benchmarks.measure import Contestant, Figure, interleave
from benchmarks.work import Subject, conversation, record

EPISODES = 256
SAMPLED_TOKENS = 128
OWN, SHARED = "own cores", "shared cores"
RAW, VECTOR = "BatchStep, recorded bytes", "VectorChatEnv"


def why_not_apart() -> str:
    """Why server and client cannot be held to cores of their own; empty where they can."""
    if not hasattr(os, "sched_setaffinity"):
        return "own cores: this system holds no process to cores"
    return "" if len(os.sched_getaffinity(0)) > 1 else "own cores: there is only one core"


def measure(subject: Subject, turns: int, rounds: int, run: Executor) -> dict[str, Figure]:
    """Steps per second of both ways to call, under both ways to share the machine."""
    with ExitStack() as stack:
        contestants = _both(subject, turns, SHARED, (), run, stack)
        if not why_not_apart():
            cores = sorted(os.sched_getaffinity(0))
            for_server, for_client = cores[: len(cores) // 2], cores[len(cores) // 2 :]
            client = stack.enter_context(_load_process(for_client))
            contestants |= _both(subject, turns, OWN, for_server, client, stack)
        for warm_up in contestants.values():
            warm_up()
        return interleave(contestants, rounds, "steps/s")


@contextmanager
def _load_process(cores: Collection[int]) -> Iterator[Executor]:
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=os.sched_setaffinity, initargs=(0, cores)) as run:
        yield run


def _both(
    subject: Subject, turns: int, sharing: str, cores: Collection[int], run: Executor, stack: ExitStack
) -> dict[str, Contestant]:
    target = stack.enter_context(servers.chatenv(subject.setting, cores)).target
    said = [conversation(subject, turns, SAMPLED_TOKENS, seed) for seed in range(EPISODES)]
    calls = batched([record(subject, each) for each in said])
    requests = [[exchange.request for exchange in episode] for episode in calls.episodes]
    recorded = Load(target, SERVICE + "BatchStep", requests, calls.items, calls.resets)
    return {
        f"{RAW}, {sharing}": partial(_ask, run, load.unary, recorded),
        f"{VECTOR}, {sharing}": partial(_ask, run, load.vector_steps, target, said),
    }


def _ask(run: Executor, generator: Callable[..., float], *arguments: object) -> float:
    return run.submit(generator, *arguments).result()
