"""Rounds of calls for many episodes: made over the connections to a server's processes, several calls at once.

`VectorSession` builds the rounds, and reads what became of them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from copy import copy
from functools import partial
from itertools import chain
from typing import Any

import grpc

from chatenv_client import inquiries
from chatenv_client._connection import Connection, warned_of
from chatenv_client._lanes import reach_all
from chatenv_client.batch import Part, Round
from chatenv_client.calls import ResultT, error_from_rpc
from chatenv_client.errors import ChatEnvError
from chatenv_client.fork import FORKS_WAIT
from chatenv_client.models import Limits, ServerInfo, StepResult
from chatenv_client.pending import PendingCall
from chatenv_client.succession import STAYS, Succession


class RoundMaker:
    """Makes the rounds of one client.

    While the server works on one part of a round, the next waits there, the answer to the one before is read, and
    another is built; where tasks answer, which may wait, all are sent at once.
    """

    def __init__(self, connection: Connection, another: Callable[[], Connection] | None, most: int) -> None:
        """Make rounds over a connection, and over others that the first round opens.

        Args:
            connection: the first; it closes the others.
            another: opens one more, of its own; None: there is to be one alone.
            most: connections that are of use.
        """
        self.connection = connection
        self._lanes = [connection]
        """The connections that episodes are spread over."""
        self._another = another
        self._most = most
        self._limits: Limits | None = None
        self._has_tasks = False
        """Whether tasks answer, which may wait: then all of a round is sent at once."""
        self._ends_by: float | None = None
        """When all has to be over, by the monotonic clock."""

    def end_within(self, seconds: float) -> None:
        """Let all calls from now on end by then, whatever timeout they are given."""
        self._ends_by = time.monotonic() + seconds

    def shared(self) -> RoundMaker:
        """One more, for forks: they are where their episodes are. The last one closes the first connection."""
        other = copy(self)
        other.connection = self.connection.shared()
        other._lanes = [other.connection, *self._lanes[1:]]
        other._another = other._ends_by = None
        return other

    def make(self, round_: Round[ResultT], timeout_s: float | None) -> Round[ResultT]:
        """Make the calls of a round, each under a deadline; the round, which then says what became of each.

        Raises:
            RuntimeError: the client is closed, or of another process.
            ChatEnvError: the server did not say what it is.
        """
        self.connection.check()
        if round_.is_empty:
            return round_
        limits = self._server_limits(timeout_s)
        with FORKS_WAIT:
            self._make_parts(round_, limits, timeout_s)
        return round_

    def succeed(self, succession: Succession, timeout_s: float | None) -> Round[StepResult]:
        """Open episodes, and close those before them; a refused one leaves the one before it as it was."""
        opening = self.make(succession.opening, timeout_s)
        room = self.make(succession.making_room(), timeout_s)
        opening.take_in(self.make(succession.opening_again(room), timeout_s))
        with warned_of(STAYS):
            self.make(succession.closing(), timeout_s).check()
        return opening

    def _make_parts(self, round_: Round[ResultT], limits: Limits, timeout_s: float | None) -> None:
        in_flight: list[deque[tuple[Part[ResultT], PendingCall]]] = [deque() for _ in self._lanes]
        try:
            for part in round_.parts(limits, len(self._lanes)):
                lane = in_flight[part.lane]
                is_full = len(lane) == part.most_in_flight and not self._has_tasks
                answers = [_answer(*lane.popleft())] if is_full else []
                # The server has its next call before the answer to the last one is read.
                lane.append((part, self._begin(part, timeout_s)))
                for answered, answer in answers:
                    self._take(answered, answer, timeout_s)
        except Exception:
            raise
        except BaseException:  # somebody pressed Ctrl-C, say, and waits for nothing more
            for _, call in chain.from_iterable(in_flight):
                call.cancel()
            in_flight.clear()
            raise
        finally:
            # Also where a later part could not be built: what was sent may be applied, and its episodes have to know.
            for begun in chain.from_iterable(in_flight):
                self._take(*_answer(*begun), timeout_s)

    def _begin(self, part: Part[ResultT], timeout_s: float | None) -> PendingCall:
        """Make the call of a part, without waiting for its answer."""
        if self._ends_by is not None:
            timeout_s = max(0.0, self._ends_by - time.monotonic())
        return self._lanes[part.lane].future(part.method, part.request, timeout_s)

    def _take(self, part: Part[ResultT], answer: Any, timeout_s: float | None) -> None:
        """Take in the answer to a part, or what its call failed with. What was too large is called for in halves."""
        for smaller in part.fail(answer) if isinstance(answer, ChatEnvError) else part.receive(answer):
            self._take(*_answer(smaller, self._begin(smaller, timeout_s)), timeout_s)

    def _server_limits(self, timeout_s: float | None) -> Limits:
        if self._limits is None:
            info = self._ask(self.connection, timeout_s)
            if info.processes > 1 and self._another is not None:
                ask = partial(self._ask, timeout_s=timeout_s)
                self._lanes = reach_all(self.connection, info, self._most, self._another, ask)
            self._limits, self._has_tasks = info.limits, bool(info.tasks)
        return self._limits

    def _ask(self, connection: Connection, timeout_s: float | None) -> ServerInfo:
        return connection.make(inquiries.server_info(), timeout_s)


def _answer(part: Part[ResultT], call: PendingCall) -> tuple[Part[ResultT], Any]:
    """Wait for the call of a part: the part, and the answer or the error that the call failed with."""
    try:
        return part, call.result()
    except grpc.RpcError as error:
        failure = error_from_rpc(error)
        failure.__cause__ = error
        return part, failure
    except BaseException:
        call.cancel()  # somebody pressed Ctrl-C, say
        raise
