"""What it costs to write and read files of trajectories: 10,000 episodes of 2,000 tokens, in ten turns each.

Usage: ``python -m benchmarks.exports [EPISODES]``. Needs pyarrow.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from chatenv_client import Origin, StopReason, Trajectory, Turn, read_trajectories, write_trajectories
from chatenv_client.models import segment_of

TOKENS = 2000
TURNS = 20
BAR_S = 10.0
"""Seconds in which 10,000 episodes are to be written as Parquet."""


def episodes(count: int) -> Iterator[Trajectory]:
    """Episodes of random tokens and logprobs, every other turn sampled."""
    rng = np.random.default_rng(7)
    length = TOKENS // TURNS
    for number in range(count):
        turns = [
            Turn(Origin.SAMPLED, i * length, length, i, i, 1, StopReason.STOP, "step-17", 0.1, has_logprobs=True)
            if i % 2
            else Turn(Origin.TEMPLATE, i * length, length, i, i, 1)
            for i in range(TURNS)
        ]
        tokens = rng.integers(0, 151_000, TOKENS, dtype=np.int32)
        logprobs = -rng.random(TOKENS // 2, dtype=np.float32)
        messages = [{"role": "assistant" if i % 2 else "user", "content": "word " * 60} for i in range(TURNS)]
        segment = segment_of(tokens, turns, logprobs, ())
        yield Trajectory(f"episode-{number}", (segment,), True, messages=tuple(messages), group=str(number // 8))  # type: ignore[arg-type]


def measure(name: str, count: int, folder: Path) -> float:
    """Write and read one file, and say how long it took; seconds of writing."""
    path = folder / name
    made = list(episodes(count))
    began, used = time.perf_counter(), time.process_time()
    write_trajectories(path, made)
    wrote, wrote_cpu = time.perf_counter() - began, time.process_time() - used
    began = time.perf_counter()
    read = sum(1 for _ in read_trajectories(path))
    took = time.perf_counter() - began
    size = path.stat().st_size / 1e6
    written = f"written in {wrote:.1f} s ({wrote_cpu:.1f} s of processor time)"
    print(f"{name}: {read} episodes, {size:.0f} MB, {written}, read in {took:.1f} s")
    return wrote


def main() -> int:
    """Measure both kinds; 1 where the bar is missed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        wrote = measure("episodes.parquet", count, Path(folder))
        measure("episodes.jsonl", count // 10, Path(folder))
    scaled = wrote * 10_000 / count
    print(f"10,000 episodes as Parquet: {scaled:.1f} s (bar: {BAR_S:g} s)")
    return int(scaled > BAR_S)


if __name__ == "__main__":
    sys.exit(main())
