"""Whether VectorChatEnv keeps up with what the server can do: beside BatchStep with recorded bytes, the same episodes.

Once on cores of their own, server and client, where the client's work costs the server nothing; once on all cores
together, where it does. The peer plays the same episodes, its server and client on the same cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

from benchmarks import load, servers
from benchmarks.calls import batched
from benchmarks.load import SERVICE, Load
from benchmarks.measure import Contestant, Figure, interleave
from benchmarks.turns import Conversation
from benchmarks.work import Subject, conversation, record

EPISODES = 256
OWN, SHARED = "own cores", "shared cores"
RAW, VECTOR, PEER = "BatchStep, recorded bytes", "VectorChatEnv", "the peer"


class Sharing(NamedTuple):
    """How server and client share the machine: the cores of each; none: all."""

    name: str
    for_server: Collection[int] = ()
    for_client: Collection[int] = ()


def why_not_apart() -> str:
    """Why server and client cannot be held to cores of their own; empty where they can."""
    if not hasattr(os, "sched_setaffinity"):
        return "own cores: this system holds no process to cores"
    return "" if len(os.sched_getaffinity(0)) > 1 else "own cores: there is only one core"


def measure(subject: Subject, sampled_tokens: int, turns: int, rounds: int) -> dict[str, Figure]:
    """Steps per second of each way to call, under both ways to share the machine. Resets are not counted."""
    said = [conversation(subject, turns, sampled_tokens, seed) for seed in range(EPISODES)]
    with ExitStack() as stack:
        contestants = _ways(subject, said, Sharing(SHARED), stack)
        if not why_not_apart():
            cores = sorted(os.sched_getaffinity(0))
            half = len(cores) // 2
            contestants |= _ways(subject, said, Sharing(OWN, cores[:half], cores[half:]), stack)
        for warm_up in contestants.values():
            warm_up()
        return interleave(contestants, rounds, "steps/s")


def _ways(subject: Subject, said: list[Conversation], sharing: Sharing, stack: ExitStack) -> dict[str, Contestant]:
    target = stack.enter_context(servers.chatenv(subject.setting, sharing.for_server)).target
    client = stack.enter_context(_load_process(sharing.for_client))
    calls = batched([record(subject, each) for each in said])
    requests = [[exchange.request for exchange in episode] for episode in calls.episodes]
    recorded = Load(target, SERVICE + "BatchStep", requests, calls.items, calls.resets)
    ways: dict[str, Contestant] = {
        f"{RAW}, {sharing.name}": partial(_ask, client, load.unary, recorded),
        f"{VECTOR}, {sharing.name}": partial(_ask, client, load.vector_steps, target, said),
    }
    if not servers.why_no_peer():
        peer = stack.enter_context(servers.peer(subject.setting, sharing.for_server)).target
        # A process of its own: our client's garbage collections would look at all that the peer's imports.
        of_peer = stack.enter_context(_load_process(sharing.for_client))
        ways[f"{PEER}, {sharing.name}"] = partial(_ask, of_peer, load.peer_steps, peer, said)
    return ways


@contextmanager
def _load_process(cores: Collection[int]) -> Iterator[Executor]:
    held: dict[str, Any] = {"initializer": os.sched_setaffinity, "initargs": (0, cores)} if cores else {}
    with ProcessPoolExecutor(1, get_context("spawn"), **held) as run:
        yield run


def _ask(run: Executor, generator: Callable[..., float], *arguments: object) -> float:
    return run.submit(generator, *arguments).result()
