"""A conversation whose sampled messages need not be held: they are read off their tokens again when somebody asks."""

from __future__ import annotations

from functools import partial

from chatenv_client.models import Message, MessageSnapshot
from chatenv_server.engine.log_head import Head
from chatenv_server.engine.records import Records
from chatenv_server.engine.renderer import Renderer
from chatenv_server.engine.span_place import END_TOKENS


def conversation_at(head: Head, count: int, renderer: Renderer) -> MessageSnapshot:
    """The first `count` messages where a log stands; costs no copy.

    They are read off the records of that head, since the log may have begun another segment by then.
    """
    return MessageSnapshot(head.messages, count, partial(read_back, renderer, head.records, head.written.turns))


def read_back(renderer: Renderer, records: Records, turns: int, index: int) -> Message:
    """A message that was sampled in one of the first `turns` turns, read as it was when it came."""
    span = records.turns.span_of(index, turns)
    before = records.tokens.view(max(0, span.start - END_TOKENS), span.start)
    ids = records.tokens.view(span.start, span.stop)
    return renderer.read_turn(ids, before, index, prompted=span.prompted).message
