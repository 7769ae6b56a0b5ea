"""Sampled tokens to a message: what the model said, and what of the template's close it wrote itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import Message, ToolCall
from chatenv_client.tokens import Int32Array
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.conversation import KnownText, ReadTurn, RenderOptions, SampledTurn
from chatenv_server.engine.encodings import UNREADABLE
from chatenv_server.engine.heads import Heads
from chatenv_server.engine.inner_stops import InnerStops
from chatenv_server.engine.parsing import ParsedTurn, TurnParser, types_of_tools
from chatenv_server.engine.parsing.layout import strip_end
from chatenv_server.engine.parsing.literal import before_open_tag
from chatenv_server.engine.probe_messages import SENTINEL, assistant

MAX_CALL_CHARACTERS: Final = 2**20
"""Of a call's arguments, as JSON: what a field of JSON on the wire holds. A longer call stays text."""
_LONGEST_OPENER: Final = 16
"""Tokens within which a generation prompt opens a thought: as many as are at hand when a turn is read again."""
_MOST_GROWTH: Final = 5
"""How many times as long as it was sampled a number may be written again: `1e15` as `1000000000000000.0`."""


class TurnReader:
    """Reads the sampled turns of all episodes of one bound template. Safe for threads."""

    def __init__(self, chat_format: ChatFormat, options: RenderOptions, heads: Heads) -> None:
        self._format = chat_format
        self._codec = chat_format.codec
        self._stop_ids = chat_format.profile.stop_ids
        self._options = options
        self._heads = heads
        self._inner_stops = InnerStops({stop_id: self.stop_text(stop_id) for stop_id in self._stop_ids}, heads)

    def read(
        self, ids: Int32Array, before: Int32Array, index: int, *, prompted: bool, known: KnownText | None = None
    ) -> ReadTurn:
        """Decode and parse a sampled span after the prompt that ends in `before`. Never raises.

        `index` is the message's in the conversation.
        """
        last = ids.item(-1) if len(ids) else None
        stop_id = last if last in self._stop_ids else None
        whole = self._codec.decode_on(*known, before, ids) if known else self._codec.decode_after(before, ids)
        text, close = self._without_close(whole, stop_id)
        spoken = self._without_part_of_close(text, close, stop_id)
        # Where no prompt asked the model to speak, it writes the header of its turn itself.
        said = spoken if prompted else self._after_header(spoken)
        parser = self._parser_after(before, prompted=prompted)
        inner_stop = self._inner_stops.first(ids, text)
        if inner_stop is None:
            parsed = parser.parse(said)
        else:  # what comes after the stop stays as it is: nobody asked the model for it, and no tool is to run for it
            length = len(self._codec.decode_after(before, ids[:inner_stop]))
            parsed = parser.parse(said[: length - (len(spoken) - len(said))])
            parsed = replace(parsed, content=parsed.content + text[length:])
        if (
            parsed.tool_calls
            and len(said) * _MOST_GROWTH > MAX_CALL_CHARACTERS
            and any(map(_is_long, parsed.tool_calls))
        ):
            parsed = ParsedTurn(said, problems=(*parsed.problems, "the arguments of a tool call are too long"))
        message: Message = parsed.as_message()  # type: ignore[assignment]
        if parsed.tool_calls and not parser.writes_ids:
            message["tool_calls"] = _with_ids(message["tool_calls"], index)
        merges = self._codec.boundaries.merges(before, ids)
        return ReadTurn(message, text, close, stop_id, parsed.problems, UNREADABLE in text, merges, inner_stop)

    def was_prompted(self, last: SampledTurn) -> bool:
        """Whether the header of the turn was the prompt's, not the model's own."""
        return last.after_prompt and (last.prompted or not self._begins_in_header(last.text))

    def _after_header(self, text: str) -> str:
        """What a turn says that writes its own header; nothing where it was cut off inside of that."""
        if not self._begins_in_header(text):
            return text
        return text[len(self._header) :]

    def _begins_in_header(self, text: str) -> bool:
        """Whether a turn writes its own header, or the beginning of it, where it was cut off there."""
        header = self._header
        return bool(header and text) and (text.startswith(header) or header.startswith(text))

    def stop_text(self, stop_id: int | None) -> str:
        """Text of a stop token; empty where a turn ended without one."""
        return self._codec.added.text_of(stop_id)

    @cached_property
    def _parser(self) -> TurnParser:
        tools = self._options.tools
        parser = self._format.parser_for(self._options.template_kwargs, with_tools=tools is not None)
        return parser.typed(types_of_tools(tools))

    def _parser_after(self, before: Int32Array, *, prompted: bool) -> TurnParser:
        """The parser after a prompt, which may open a thought after a tool's result and nowhere else."""
        opener = self._opener_after_result
        if opener and self._codec.decode(before[-_LONGEST_OPENER:]).rstrip().endswith(opener.strip()):
            return self._parser.after(opener)
        return self._parser if prompted else self._unprompted_parser

    @cached_property
    def _opener_after_result(self) -> str:
        """What opens a thought in the prompt after a tool's result; empty where nothing does or every prompt does."""
        opener = self._parser.thought_opener
        if not opener.strip() or self._parser.opening:
            return ""
        try:
            asked = self._heads.asked_after_result()
        except TemplateRejectedError:
            return ""
        return opener if asked.rstrip().endswith(opener.strip()) else ""

    @cached_property
    def _unprompted_parser(self) -> TurnParser:
        return self._parser.after("")

    @cached_property
    def _header(self) -> str:
        """What a turn begins with, as far as it is nothing that is said."""
        prompt = self._heads.generation_prompt
        header = prompt.removesuffix(self._parser.opening)
        try:
            asked, written = self._heads.asked_and_answered(assistant(SENTINEL))
        except TemplateRejectedError:
            return header
        return before_open_tag(self._codec.common_prefix(header, written[len(asked) - len(prompt) :]))

    def _without_close(self, text: str, stop_id: int | None) -> tuple[str, str]:
        """A turn's text in two: what it says, and what it holds of the template's close, through the stop token."""
        if stop_id is None:
            return text, ""
        whole, stop_text = self._closes[stop_id]
        close = whole if text.endswith(whole) else stop_text
        return text.removesuffix(close), close

    def _without_part_of_close(self, text: str, close: str, stop_id: int | None) -> str:
        """The text of a turn that has not the whole close, without what it has of the beginning of that."""
        before_stop = self._before_stop
        if not before_stop or len(close) > len(self.stop_text(stop_id)):
            return text
        return strip_end(text, before_stop)

    @cached_property
    def _closes(self) -> dict[int, tuple[str, str]]:
        """By stop token: the template's close through it, and its own text."""
        closes = {}
        for stop_id in self._stop_ids:
            stop_text = self.stop_text(stop_id)
            before_stop = self._close.partition(stop_text)[0] if stop_text else ""
            closes[stop_id] = (before_stop + stop_text, stop_text)
        return closes

    @cached_property
    def _before_stop(self) -> str:
        """What the template writes between a text and the stop token that closes the turn."""
        before = (whole.removesuffix(stop) for whole, stop in self._closes.values() if stop and whole in self._close)
        return min(before, key=len, default="")

    @property
    def _close(self) -> str:
        return self._format.profile.role_closes.get("assistant", "")


def _is_long(call: dict[str, Any]) -> bool:
    written = json.dumps(call["function"]["arguments"], ensure_ascii=False, separators=(",", ":"))
    return len(written) > MAX_CALL_CHARACTERS


def _with_ids(calls: Sequence[ToolCall], index: int) -> list[ToolCall]:
    """Calls with an id each, by which results can be told apart: nine letters and digits, which templates take."""
    return [
        call if "id" in call else {"id": f"{index % 16**6:06x}{number % 16**3:03x}", **call}
        for number, call in enumerate(calls)
    ]
