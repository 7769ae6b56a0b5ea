"""A long text of one episode stalls no other: while it is tokenized, other threads run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from chatenv_client import ChatAction
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer

TEXT = "the quick brown fox jumps over 123 lazy dogs and more " * 20_000
HELLO = {"role": "user", "content": "Hello!"}


def longest_stall(work: Callable[[], object]) -> float:
    """The longest time that another thread could not run, as a part of the whole that `work` takes."""
    done = threading.Event()
    seen = [time.perf_counter()]

    def run() -> None:
        while not done.is_set():
            time.sleep(0)
            seen.append(time.perf_counter())

    thread = threading.Thread(target=run)
    thread.start()
    work()
    done.set()
    thread.join()
    gaps = np.diff(seen)
    return float(gaps.max() / gaps.sum())


@pytest.fixture(scope="module")
def engine() -> TokenEngine:
    return TokenEngine.load(ByteTokenizer())


def test_a_long_opening_stalls_nobody(engine: TokenEngine) -> None:
    environment = ChatEnvironment(engine)
    assert longest_stall(lambda: environment.reset(messages=[{"role": "user", "content": TEXT}])) < 0.5


def test_a_long_message_stalls_nobody(engine: TokenEngine) -> None:
    environment = ChatEnvironment(engine)
    environment.reset(messages=[HELLO])
    environment.step(ChatAction(tokens=[65, 66]))
    assert longest_stall(lambda: environment.step({"role": "user", "content": TEXT})) < 0.5


def test_a_long_sampled_turn_stalls_nobody(engine: TokenEngine) -> None:
    environment = ChatEnvironment(engine)
    environment.reset(messages=[HELLO])
    sampled = ChatAction(tokens=np.full(2_000_000, 65, dtype=np.int32))
    assert longest_stall(lambda: environment.step(sampled)) < 0.5
