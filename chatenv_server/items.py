"""Runs the items of batches and streams: items of one episode in order, different episodes side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class ItemRunner:
    """Runs items in threads of its own, or, with 0 threads, where it is called.

    Threads pay only where items wait, which a transform may do; the rest of a step is work that holds the interpreter.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="item") if threads else None

    def start(self, work: Callable[[], object]) -> None:
        """Run `work`, which must not raise; returns when it has begun, or is done."""
        if self._pool is None:
            work()
        else:
            self._pool.submit(work)

    def map(
        self, work: Callable[[ItemT], ResultT], items: Sequence[ItemT], episode_of: Callable[[ItemT], str]
    ) -> list[ResultT]:
        """`work` on each item, which must not raise; results in the order of the items."""
        if self._pool is None:
            return [work(item) for item in items]
        by_episode: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            # Items that name no episode are each on their own.
            by_episode.setdefault(episode_of(item) or f" {index}", []).append(index)
        results: dict[int, ResultT] = {}

        def run(indices: list[int]) -> None:
            for index in indices:
                results[index] = work(items[index])

        wait([self._pool.submit(run, indices) for indices in by_episode.values()])
        return [results[index] for index in range(len(items))]

    def close(self) -> None:
        """Take no more work; does not wait for what has begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
