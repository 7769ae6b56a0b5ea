"""Recorded conversations as calls: one by one, over a stream, in batches."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.work import Exchange, Script
from chatenv_client._generated import chatenv_pb2 as pb

_ITEM_BYTES = 5
"""Tags and lengths around an item of a batch."""
_STREAM_BYTES = 48
"""What StreamStepsResponse adds to a StepResponse: request id, episode id, step index."""


@dataclass(frozen=True)
class Calls:
    """Requests that a bare client sends."""

    episodes: list[list[Exchange]]
    """Those of one episode wait for each other."""
    items: int
    """Steps in all of them."""
    resets: list[bytes]
    """BatchReset requests that start the episodes."""


def one_by_one(scripts: list[Script]) -> Calls:
    """Every Step a unary call."""
    return Calls([script.steps for script in scripts], _items(scripts), _resets(scripts))


def wrapped(scripts: list[Script]) -> Calls:
    """Every Step a message of one stream."""
    episodes = [
        [
            Exchange(
                pb.StreamStepsRequest(step=pb.StepRequest.FromString(step.request)).SerializeToString(),
                step.answer_bytes + _STREAM_BYTES,
            )
            for step in script.steps
        ]
        for script in scripts
    ]
    return Calls(episodes, _items(scripts), _resets(scripts))


def batched(scripts: list[Script]) -> Calls:
    """The same Step of all episodes a call."""
    calls = []
    for turn in zip(*(script.steps for script in scripts), strict=True):
        steps = [pb.StepRequest.FromString(step.request) for step in turn]
        answer_bytes = sum(step.answer_bytes + _ITEM_BYTES for step in turn)
        calls.append(Exchange(pb.BatchStepRequest(steps=steps).SerializeToString(), answer_bytes))
    return Calls([calls], _items(scripts), _resets(scripts))


def _items(scripts: list[Script]) -> int:
    return sum(len(script.steps) for script in scripts)


def _resets(scripts: list[Script]) -> list[bytes]:
    resets = [pb.ResetRequest.FromString(script.reset) for script in scripts]
    return [pb.BatchResetRequest(resets=resets).SerializeToString()]


def echoed(exchange: Exchange) -> bytes:
    """A request for the echo, which answers as many bytes as chatenv."""
    return exchange.answer_bytes.to_bytes(4, "little") + exchange.request
