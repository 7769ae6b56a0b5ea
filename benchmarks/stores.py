"""What it costs that episodes live in a store: rates beside the memory store's, bytes a Step, a reload, growth."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import load, servers
from benchmarks.calls import Calls, batched, one_by_one
from benchmarks.load import SERVICE, Load
from benchmarks.measure import Contestant, Figure, interleave, ratio
from benchmarks.work import Subject, conversation, record
from chatenv_client.models import ChatAction
from chatenv_server.environment.environment import ChatEnvironment

SAMPLED_TOKENS: Final = 128
WAYS: Final = ("batch of 256", "unary, 64 in flight", "unary, 1 episode")
_EPISODES: Final = {"batch of 256": 256, "unary, 64 in flight": 64, "unary, 1 episode": 1}
_RELOADED_TURNS, _RELOADED_TOKENS = 100, 20_000
_EARLY, _LATE = 10, 300
_AROUND: Final = 10


@dataclass(frozen=True)
class Stores:
    """What was measured with one tokenizer."""

    rates: dict[str, dict[str, Figure]]
    """Steps a second, by store and by way."""
    written: list[float]
    """Bytes of each Step's entry, by what they may be."""
    reload: Figure
    """Milliseconds of processor time."""
    growth: list[float]
    """A late turn's time by an early one's, each with what its entries take."""

    def ratios(self, store: str, way: str) -> list[float]:
        """A store's rate by the memory store's, round by round."""
        return ratio(self.rates[store][way], self.rates["memory"][way])


def measure(subject: Subject, turns: int, rounds: int, run: Executor) -> Stores:
    """Measure servers on each kind of store that this machine has, and entries in-process."""
    said = [conversation(subject, turns, SAMPLED_TOKENS, seed) for seed in range(max(_EPISODES.values()))]
    scripts = [record(subject, one) for one in said]
    alone = [record(subject, conversation(subject, 8 * turns, SAMPLED_TOKENS, seed=-6))]
    calls = {
        "batch of 256": ("BatchStep", batched(scripts)),
        "unary, 64 in flight": ("Step", one_by_one(scripts[:64])),
        "unary, 1 episode": ("Step", one_by_one(alone)),
    }
    rates: dict[str, dict[str, Figure]] = {}
    with ExitStack() as stack:
        targets = _targets(subject, stack)
        for way, (method, made) in calls.items():
            contestants = {store: _contestant(target, method, made, run) for store, target in targets.items()}
            for warm_up in contestants.values():
                warm_up()
            for store, figure in interleave(contestants, rounds, "steps/s").items():
                rates.setdefault(store, {})[way] = figure
    return Stores(rates, *run.submit(_in_process, subject, rounds).result())


def _targets(subject: Subject, stack: ExitStack) -> dict[str, str]:
    """A server on each kind of store."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    stores = {"memory": "memory", "sqlite": f"sqlite://{folder / 'episodes.db'}"}
    if (program := shutil.which("redis-server") or shutil.which("valkey-server")) is not None:
        stores["redis"] = stack.enter_context(_redis(program, folder))
    opened = {name: servers.chatenv(subject.setting, arguments=("--store", url)) for name, url in stores.items()}
    return {name: stack.enter_context(server).target for name, server in opened.items()}


@contextmanager
def _redis(program: str, folder: Path) -> Iterator[str]:
    """A Redis server of its own, which keeps nothing on disk."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [program, "--port", str(port), "--save", "", "--dir", str(folder), "--maxmemory-policy", "noeviction"]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    until = time.monotonic() + 5
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", port)):
            if time.monotonic() > until:
                raise RuntimeError("redis-server does not answer")
            time.sleep(0.05)


def _contestant(target: str, method: str, calls: Calls, run: Executor) -> Contestant:
    requests = [[exchange.request for exchange in episode] for episode in calls.episodes]
    generator = partial(load.unary, Load(target, SERVICE + method, requests, calls.items, calls.resets))
    return lambda: run.submit(generator).result()


# -- in-process, by processor time ------------------------------------------------------------------


def _in_process(subject: Subject, rounds: int) -> tuple[list[float], Figure, list[float]]:
    pieces, written = _pieces(subject)
    journal = b"".join(pieces)
    reloads = [_reloaded(subject, journal) for _ in range(1 + rounds)]
    growth = [_growth(subject) for _ in range(min(rounds, 3))]
    return written, Figure("reload", "ms", reloads[1:]), growth


def _pieces(subject: Subject) -> tuple[list[bytes], list[float]]:
    """The entries of a long episode, and of each sampled one its bytes by what they may be."""
    length = _RELOADED_TOKENS // _RELOADED_TURNS
    said = conversation(subject, _RELOADED_TURNS // 2, 2 * length - 50, seed=-7)
    environment = ChatEnvironment(subject.engine)
    environment.reset(messages=[said.opening])
    pieces, written = [environment.newest_piece()], []
    for sampled, reply in zip(said.sampled, said.replies, strict=True):
        logprobs = np.linspace(-3, 0, len(sampled), dtype=np.float32)
        for action in (ChatAction(tokens=sampled, logprobs=logprobs), reply):
            before = environment.token_count
            environment.step(action)
            pieces.append(environment.newest_piece(bytes(16)))
            bytes_of_tokens = 4 * (environment.token_count - before) * (2 if isinstance(action, ChatAction) else 1)
            written.append(len(pieces[-1]) / (2.5 * bytes_of_tokens + 200))
    return pieces, written


def _reloaded(subject: Subject, journal: bytes) -> float:
    environment = ChatEnvironment(subject.engine, keeps_journal=False)
    began = time.process_time()
    environment.restore(journal)
    return 1e3 * (time.process_time() - began)


def _growth(subject: Subject) -> float:
    """Time of a late turn by that of an early one."""
    said = conversation(subject, _LATE + _AROUND, SAMPLED_TOKENS, seed=-8)
    environment = ChatEnvironment(subject.engine, keeps_journal=False)
    environment.reset(messages=[said.opening])
    times: list[float] = []
    for sampled, reply in zip(said.sampled, said.replies, strict=True):
        began = time.process_time()
        actions: tuple[Any, ...] = (ChatAction(tokens=sampled), reply)
        for action in actions:
            environment.step(action)
            environment.newest_piece(bytes(16))
        times.append(time.process_time() - began)
    early, late = (sorted(times[turn - _AROUND : turn + _AROUND])[_AROUND] for turn in (_EARLY + _AROUND, _LATE))
    return late / early
