"""The soak in short; `make soak` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.soak import soak

DISTURBED = {
    "memory": (),
    "sqlite": ("serving processes killed",),
    "redis": ("servers killed",),
    "rolling": ("servers drained and replaced",),
}


@pytest.mark.parametrize("kind", DISTURBED)
def test_clients_and_servers_killed_at_random_lose_nothing_and_do_nothing_twice(tmp_path: Path, kind: str) -> None:
    report = soak(clients=6, seconds=8, folder=tmp_path, kind=kind)
    assert report.failures == []
    for what in (
        "clients killed",
        "episodes taken up",
        "steps of the clients",
        "live episodes compared",
        *DISTURBED[kind],
    ):
        assert report.counts[what] > 0
