"""The conversations that the probe compares: what may come before a turn, and what may come of it.

Every call has an id of its own, since some templates look results up by it. Calls come with content, without, and with
empty content, since some templates show them in one of these cases alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from chatenv_server.engine.probe_messages import PROBE_CALL_ID, SENTINEL, assistant, calling, tool_result, user

Messages = Sequence[dict[str, Any]]

_FIRST, _SECOND, _THIRD, _OTHER = "callZq7a1", "callZq7a2", "callZq7a3", "callZq7x2"
_REASONED: Final = {"reasoning_content": "Zq7xR1"}


class Exchange(NamedTuple):
    """A turn that holds the sentinel, and what follows it."""

    turn: dict[str, Any]
    following: Messages


EXCHANGES: Final[tuple[Exchange, ...]] = tuple(
    Exchange(turn, following)
    for turn, following in (
        (assistant(SENTINEL), [user()]),
        (calling({"key": SENTINEL}), [tool_result("x")]),
        (calling({"key": SENTINEL}, SENTINEL), [tool_result("x")]),
        (calling({"key": SENTINEL}, None), [tool_result("x")]),
        (
            calling({"key": SENTINEL}, ids=(PROBE_CALL_ID, _OTHER)),
            [tool_result("x"), tool_result("y", _OTHER)],
        ),
        (calling({"key": SENTINEL}), [tool_result("x"), user()]),
        (calling({"key": SENTINEL}), [user()]),
        (assistant(SENTINEL), [tool_result("x")]),
        (assistant(SENTINEL), [user(), assistant("x"), user()]),
        (assistant(SENTINEL), [user(), calling({"key": "x"}), tool_result("x")]),
        (assistant(SENTINEL), [{"role": "system", "content": "x"}, user()]),
        (assistant(SENTINEL) | _REASONED, [user()]),
        (calling({"key": SENTINEL}) | _REASONED, [tool_result("x")]),
    )
)
"""What people do. A template that takes one of them after one conversation and rejects it after another tells the two
apart."""


def _round(call_id: str, content: str | None = "") -> list[dict[str, Any]]:
    return [calling({"key": "b"}, content, ids=(call_id,)), tool_result("c", call_id)]


_ASKED, _PLAIN, _DONE = [user("a")], [assistant("b"), user("c")], [assistant("d"), user("e")]
_PARALLEL = [
    calling({"key": "b"}, ids=(_FIRST, _SECOND)),
    tool_result("c", _FIRST),
    tool_result("d", _SECOND),
]

DEEPER_HEADS: Final[tuple[Messages, ...]] = (
    [*_ASKED, *_PLAIN],
    [*_ASKED, *_PLAIN, *_DONE],
    [*_ASKED, *_PLAIN, *_DONE, assistant("f"), user("g")],
    [*_ASKED, *_round(_FIRST)],
    [*_ASKED, *_round(_FIRST), *_DONE],
    [*_ASKED, *_round(_FIRST), *_round(_SECOND)],
    [*_ASKED, *_round(_FIRST), *_round(_SECOND), *_DONE],
    [*_ASKED, *_round(_FIRST), *_DONE, *_round(_SECOND)],
    [*_ASKED, *_round(_FIRST), *_DONE, *_round(_SECOND), *_DONE, *_round(_THIRD)],
    [*_ASKED, *_round(_FIRST, None)],
    [*_ASKED, *_round(_FIRST, None), *_DONE],
    [*_ASKED, *_PARALLEL],
    [*_ASKED, *_PARALLEL, *_DONE],
    [*_ASKED, *_round(_FIRST), user("d")],
    [*_ASKED, assistant(""), user("c")],
    [*_ASKED, user("b")],
    [*_ASKED, assistant("b"), {"role": "system", "content": "c"}, user("d")],
)
"""Conversations that differ in what came before the last turn."""

ODD_HEADS: Final[tuple[Messages, ...]] = (
    [*_ASKED, *_round(_FIRST, "x")],
    [*_ASKED, *_round(_FIRST, "x"), *_DONE],
    [*_ASKED, assistant("b") | _REASONED, user("c")],
    [*_ASKED, _round(_FIRST)[0] | _REASONED, _round(_FIRST)[1]],
    [*_ASKED, assistant("b"), tool_result("c", _FIRST)],
    [*_ASKED, assistant("b"), tool_result("c", _FIRST), *_DONE],
)
"""Such with thoughts, or what may be taken for one, and with results of calls that nobody could read. What a template
forgets of these is found elsewhere (`rewrites.py`), and it may well reject them."""

_CALL_ROUND: Final = [*_ASKED, *_round(_FIRST), assistant("d")]
LONGER_HEADS: Final[tuple[tuple[Messages, tuple[Messages, ...]], ...]] = tuple(
    (
        [*before, *plain, *plain, *after],
        tuple([*before, *(plain * count), *after] for count in (3, 4, 7)),
    )
    for plain, before, after in (
        ([user("a"), assistant("b")], [], [user("e")]),
        ([user("a"), assistant("")], [], [user("e")]),
        ([user("a"), assistant("b")], _CALL_ROUND, [user("e")]),
        ([user("a"), assistant("b")], [], [*_CALL_ROUND, user("e")]),
        ([user("a"), assistant("b")], [], _CALL_ROUND[:3]),
    )
)
"""Heads with two plain questions and answers in a row, each with its likes that have more of them."""
USUAL_EXCHANGES: Final = (0, 1, 2, 4, 8, 9)
"""The exchanges that are tried after longer heads."""


def spoken_heads(said: str, heard: str) -> tuple[Messages, ...]:
    """Conversations whose assistants say one text, and all others another."""
    return (
        [user(heard), assistant(said), user(heard)],
        [user(heard), *_round(_FIRST, said)[:1], tool_result(heard, _FIRST), assistant(said), user(heard)],
        [user(heard), *_round(_FIRST, said)[:1], tool_result(heard, _FIRST)],
    )
