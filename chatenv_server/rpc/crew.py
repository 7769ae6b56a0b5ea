"""Who takes calls in and works on them: for each kind of method its threads, its places and its room.

Health has its own of everything, so that nothing that other calls do holds it up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_server.observing.calls import is_ours
from chatenv_server.rpc import health
from chatenv_server.rpc.arrivals import Arrivals
from chatenv_server.rpc.gate import Gate
from chatenv_server.rpc.requests import Parser
from chatenv_server.rpc.traffic import Traffic
from chatenv_server.rpc.waiting import Sweeper
from chatenv_server.workers import BATCH_WORKERS, STEP_WORKERS, UNARY_WORKERS, Workers

MAX_OTHER_CALLS: Final = 8
"""Calls at once to reflection, the one service that is neither ours nor health. Its idle streams could otherwise take
every thread."""
MAX_WATCHERS: Final = 32
"""Callers at once that watch health; each takes a thread."""
MOST_AWAITED: Final = 1024
"""Requests of ours that may be waited for."""
AWAITED_S: Final = 60.0
"""Seconds that each is waited for: as long as a large one takes on a slow line."""
MOST_AWAITED_BY_HEALTH: Final = 8
"""By checks, and by watches. A caller that goes on at once is never the oldest of even a few; and any of them may send
as much as a request of ours is long."""
HEALTH_AWAITED_S: Final = 5.0
MAX_HEALTH_BYTES: Final = 1024
"""Of a request to health, which is a name."""
HEALTH_BYTES_IN_FLIGHT: Final = 2**24

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["ChatEnvService"]


@dataclass(frozen=True)
class Part:
    """What the methods of one kind share."""

    workers: Workers
    traffic: Traffic
    arrivals: Arrivals | None
    """How their requests come in; None: they are streams."""
    gate: Gate | None
    """Their places; None: each call is let in."""
    is_open_to_all: bool
    max_request_bytes: int

    def parser(self, path: str, parse: Callable[[bytes], Any]) -> Parser:
        """What parses the requests of a method."""
        schema = _SERVICE.methods_by_name[path.rpartition("/")[2]].input_type if is_ours(path) else None
        return Parser(parse, schema, self.max_request_bytes)


class Crew:
    """The threads of a server, and what its calls may take.

    Args:
        gate: lets our calls in.
        max_calls: that are worked on at once.
        max_bytes: of all requests and answers under way.
        max_request_bytes: of each request.
        waits: whether steps wait for a task or a transform, and so each call is to have a thread.
        has_store: whether they are written to a store before they are answered.
        tasks: for its `Sweeper`.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        max_calls: int,
        max_bytes: int,
        max_request_bytes: int,
        waits: bool,
        has_store: bool = False,
        tasks: Sequence[Callable[[], None]] = (),
    ) -> None:
        self.traffic = Traffic(max_bytes)
        others = Gate(MAX_OTHER_CALLS)
        others.open()
        health_traffic = Traffic(HEALTH_BYTES_IN_FLIGHT)

        def ours(workers: Workers) -> Part:
            arrivals = Arrivals(workers, self.traffic, MOST_AWAITED, AWAITED_S, max_request_bytes)
            return Part(workers, self.traffic, arrivals, gate, False, max_request_bytes)

        def of_health(workers: Workers) -> Part:
            arrivals = Arrivals(workers, health_traffic, MOST_AWAITED_BY_HEALTH, HEALTH_AWAITED_S, MAX_HEALTH_BYTES)
            return Part(workers, health_traffic, arrivals, None, True, MAX_HEALTH_BYTES)

        def patient(most: int) -> Workers:
            return Workers(most, most, at_once=True)

        # Steps that wait for nothing are quickest when few threads contend for the interpreter: docs/server-model.md.
        self.unary = ours(patient(max_calls) if waits else Workers(max_calls, UNARY_WORKERS))
        self._writes_together = has_store and not waits
        self.steps = ours(Workers(max_calls, STEP_WORKERS)) if self._writes_together else self.unary
        self.batches = self.unary if waits else ours(Workers(max_calls, BATCH_WORKERS))
        self._streams = Part(patient(max_calls), self.traffic, None, gate, False, max_request_bytes)
        self._others = Part(patient(MAX_OTHER_CALLS), self.traffic, None, others, False, max_request_bytes)
        self._checks = of_health(Workers(MAX_WATCHERS, 1))
        self._watches = of_health(patient(MAX_WATCHERS))
        parts = {self.unary, self.steps, self.batches, self._streams, self._others, self._checks, self._watches}
        self._parts = parts
        overdue = [part.arrivals.waiting.cut_overdue for part in parts if part.arrivals is not None]
        untaken = [self.traffic.untaken.cut_overdue, health_traffic.untaken.cut_overdue]
        self._sweeper = Sweeper([*overdue, *untaken, *tasks])

    def part_for(self, path: str) -> Part:
        """The part that the calls of a method belong to."""
        service, _, method = path.lstrip("/").rpartition("/")
        if service == health.SERVICE:
            return self._watches if method == "Watch" else self._checks
        if not is_ours(path):
            return self._others
        if method == "StreamSteps":
            return self._streams
        if method in {"Reset", "Step"}:
            return self.steps
        return self.batches if method.startswith("Batch") else self.unary

    def work_on_next_step(self) -> None:
        """Work on a Reset or Step that waits, if there is one, within another that is to be written with it."""
        if self._writes_together:
            self.steps.workers.work_on_next()

    def close(self) -> None:
        """End the threads."""
        self._sweeper.close()
        for part in self._parts:
            part.workers.shutdown(wait=False)
