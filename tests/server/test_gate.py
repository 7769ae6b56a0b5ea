"""Who is let in, and what those are told who are not."""

from __future__ import annotations

from chatenv_client import ServerBusyError, UnavailableError
from chatenv_server.rpc.gate import Gate


def test_a_call_that_came_before_the_server_opened_is_not_told_that_it_is_busy() -> None:
    gate = Gate(1)
    refusal = gate.refusal()
    gate.open()
    assert refusal is not None
    assert isinstance(refusal(), UnavailableError)  # which clients try again
    assert gate.refusal() is None


def test_a_call_that_found_no_place_is_told_so_although_there_is_one_meanwhile() -> None:
    gate = Gate(1)
    gate.open()
    with gate:
        refusal = gate.refusal()
    assert refusal is not None
    assert isinstance(refusal(), ServerBusyError)
    assert gate.refusal() is None
