"""Learns how to read a template's turns from what it writes, never from a family's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from chatenv_server.engine.parsing.channels import ChannelParser
from chatenv_server.engine.parsing.evidence import Evidence, Write
from chatenv_server.engine.parsing.induce import functions_of, induce_notation, same
from chatenv_server.engine.parsing.layout import learn_layout
from chatenv_server.engine.parsing.layout_parser import LayoutParser
from chatenv_server.engine.parsing.literal import before_open_tag, shared_end, shared_start
from chatenv_server.engine.parsing.probes import NAMES, PROBE_MESSAGES, PROBE_TYPES, with_naming_ids
from chatenv_server.engine.parsing.turn import ProbeRender, TurnParser


def learn_reader(write: Write, generation_prompt: str = "", close: str = "") -> TurnParser:
    """The parser that recovers the messages that the template writes; `verbatim` for calls if none can be read.

    What `write` gives and `generation_prompt` must begin at the same place: all after the generation prompt (which is
    empty then), or anywhere before it, the beginning of the whole render included. The turn is what follows their
    common beginning, so a generation prompt that opens a thought, or writes an empty one, is understood as the
    template means it. A text ends before what closes the turn; where that is no token but a text, it ends in `close`,
    which need not stand after calls to be read.
    """

    def write_open(message: Mapping[str, Any]) -> str | None:
        text = write(message)
        return text.removesuffix(close) if text is not None and close.strip() else text

    named_by_id = _is_named_by_id(write)
    messages = [with_naming_ids(one) if named_by_id else one for one in PROBE_MESSAGES]
    written = [(message, write(message)) for message in messages]
    renders = [ProbeRender(message, text) for message, text in written if text is not None]
    start = _start_of_turns(generation_prompt, renders)
    opening, before = generation_prompt[start:], generation_prompt[:start]
    turns = [replace(render, text=render.text[start:]) for render in renders]
    notation = induce_notation(Evidence(write_open, before, opening, named_by_id=named_by_id))
    induced = LayoutParser(notation, learn_layout(turns, notation, opening))
    channels = ChannelParser()
    calls, whole = _recovered(channels, turns)
    if calls and (calls, whole) >= _recovered(induced.typed(PROBE_TYPES), turns):
        return channels.after(opening)
    return induced.after(opening)


def _is_named_by_id(write: Write) -> bool:
    """Whether the template writes an id for a call, and no name."""
    message = PROBE_MESSAGES[2]
    text = write(message) or ""
    return NAMES[0] not in text and message["tool_calls"][0]["id"] in text


def _start_of_turns(generation_prompt: str, renders: Sequence[ProbeRender]) -> int:
    shared = before_open_tag(shared_start([generation_prompt, *(render.text for render in renders)]))
    return len(shared) - len(_mark_in_prompt(shared, renders))


def _mark_in_prompt(prompt: str, renders: Sequence[ProbeRender]) -> str:
    """What announces a call after a text, where the prompt ends in it: it announces the first call, too."""
    for render in renders:
        calls, text = render.message.get("tool_calls"), render.message.get("content")
        name = calls[0]["function"]["name"] if calls else ""
        if calls and text and text in render.text and name in render.text:
            mark = shared_end(render.text[: render.text.index(name)].rpartition(text)[2], prompt)
            return mark if mark.strip() else ""
    return ""


def _recovered(parser: TurnParser, turns: Sequence[ProbeRender]) -> tuple[int, int]:
    """How many of the turns come back with their calls, and how many with everything."""
    parsed = [(parser.parse(turn.text), turn) for turn in turns]
    in_calls = [
        (one, turn)
        for one, turn in parsed
        if same(functions_of(one.tool_calls), functions_of(turn.message.get("tool_calls") or ()))
    ]
    in_all = [
        one
        for one, turn in in_calls
        if one.content == (turn.message.get("content") or "")
        and one.reasoning_content == turn.message.get("reasoning_content")
    ]
    return sum(bool(one.tool_calls) for one, _ in in_calls), len(in_all)
