"""The soak in short; `make soak` is the long one."""

from __future__ import annotations

from pathlib import Path

from tests.server.soak import soak


def test_clients_killed_at_random_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    report = soak(clients=6, seconds=8, folder=tmp_path)
    assert report.failures == []
    for what in ("clients killed", "episodes taken up", "steps of the clients", "live episodes compared"):
        assert report.counts[what] > 0
