"""What a Step costs as the conversation gets longer: one episode of a thousand turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import grpc

from benchmarks import servers
from benchmarks.measure import Figure
from benchmarks.turns import Conversation
from benchmarks.work import Subject, conversation
from chatenv_client import channel_options
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.models import ChatAction
from chatenv_client.session import Session

SAMPLED_TOKENS = 128
_AROUND = 10
"""Turns on either side of a turn that its figure is the median of."""


@dataclass(frozen=True)
class Curve:
    """One pass over the episode, a value a turn."""

    seconds: list[float]
    """Of both Steps of a turn, client's work included."""
    sent_bytes: list[int]
    received_bytes: list[int]

    def seconds_at(self, turn: int) -> float:
        """Time of a turn, as the median of those around it."""
        return statistics.median(self._around(self.seconds, turn))

    def bytes_at(self, turn: int) -> float:
        """Bytes of a turn both ways, as the mean of those around it."""
        both = [sent + received for sent, received in zip(self.sent_bytes, self.received_bytes, strict=True)]
        return statistics.mean(self._around(both, turn))

    @staticmethod
    def _around(values: Sequence[float], turn: int) -> Sequence[float]:
        return values[max(0, turn - 1 - _AROUND) : turn + _AROUND]


@dataclass(frozen=True)
class Growth:
    """All passes."""

    curves: list[Curve]
    early: int
    late: int

    def figures(self) -> dict[str, Figure]:
        """The late turn against the early one."""
        early, late = self.early, self.late
        times = [curve.seconds_at(late) / curve.seconds_at(early) for curve in self.curves]
        sizes = [curve.bytes_at(late) / curve.bytes_at(early) for curve in self.curves]
        return {
            "time": Figure(f"time of turn {late} against turn {early}", "x", times),
            "bytes": Figure(f"bytes of turn {late} against turn {early}", "x", sizes),
        }


def measure(subject: Subject, turns: int, rounds: int, run: Executor) -> Growth:
    """Play the episode `rounds` times."""
    said = conversation(subject, turns, SAMPLED_TOKENS, seed=-2)
    with servers.chatenv(subject.setting) as server:
        run.submit(_play, server.target, conversation(subject, 50, SAMPLED_TOKENS, seed=-3)).result()
        curves = [run.submit(_play, server.target, said).result() for _ in range(rounds)]
    return Growth(curves, early=10, late=turns)


def _play(target: str, said: Conversation) -> Curve:
    curve = Curve([], [], [])
    session = Session()
    with grpc.insecure_channel(target, channel_options()) as channel:
        stub = ChatEnvServiceStub(channel)
        call = session.reset({"messages": [said.opening]})
        call.receive(stub.Reset(call.request))
        for sampled, reply in zip(said.sampled, said.replies, strict=True):
            began = time.perf_counter()
            sent = received = 0
            for action in (ChatAction(tokens=sampled), reply):
                step = session.step(action)
                response = stub.Step(step.request)
                step.receive(response)
                sent, received = sent + step.request.ByteSize(), received + response.ByteSize()
            curve.seconds.append(time.perf_counter() - began)
            curve.sent_bytes.append(sent)
            curve.received_bytes.append(received)
        if (closing := session.close()) is not None:
            stub.CloseEpisode(closing.request)
    return curve
