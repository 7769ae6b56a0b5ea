"""An episode without the times of its turns: two plays of one conversation differ in them."""

from __future__ import annotations

from typing import TypeVar

from chatenv_client._generated import chatenv_pb2 as pb

Shown = TypeVar("Shown", bound=pb.GetStateResponse | pb.GetTrajectoryResponse)


def untimed(shown: Shown) -> Shown:
    """A state or a trajectory, as it travels, whose turns do not say when they came."""
    for segment in [shown] if isinstance(shown, pb.GetStateResponse) else shown.segments:
        for turn in segment.turns:
            turn.ClearField("at_ms")
    return shown
