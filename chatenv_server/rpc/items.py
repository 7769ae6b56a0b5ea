"""Runs the items of batches and streams: items of one episode in order, different episodes side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import TypeVar

from chatenv_server.rpc.workers import Workers

ItemT = TypeVar("ItemT")


class ItemRunner:
    """Runs items in threads of its own. With 0 threads it runs nothing, and its users work on the items themselves.

    Threads pay only where items wait, as a transform may; the rest of a step is work that holds the interpreter.
    """

    def __init__(self, threads: int) -> None:
        self._pool = Workers(threads, threads, at_once=True) if threads else None

    @property
    def has_threads(self) -> bool:
        """Whether items run side by side."""
        return self._pool is not None

    def start(self, work: Callable[[], object]) -> None:
        """Run `work`, which must not raise, in one of the threads. There must be threads."""
        self._threads.start(work)

    def each(self, work: Callable[[ItemT], object], items: Sequence[ItemT], episode_of: Callable[[ItemT], str]) -> None:
        """Do `work`, which must not raise, on each item in the threads, and wait for all. There must be threads."""
        by_episode: dict[str, list[ItemT]] = {}
        for index, item in enumerate(items):
            # An item that names no episode waits for no other. No id of an episode begins with a space.
            by_episode.setdefault(episode_of(item) or f" {index}", []).append(item)

        def run(items: Sequence[ItemT]) -> None:
            for item in items:
                work(item)

        wait([self._threads.submit(run, items) for items in by_episode.values()])

    @property
    def _threads(self) -> Workers:
        if self._pool is None:
            raise RuntimeError("this runner has no threads")
        return self._pool

    def close(self) -> None:
        """Take no more work; does not wait for what has begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
