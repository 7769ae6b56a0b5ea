"""gpt-oss: a turn is several messages, each with a channel and perhaps a recipient.

`analysis` is reasoning, `final` and `commentary` are content, and a message to `functions.NAME` is a call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from chatenv_server.engine.parsing.calls import function_call
from chatenv_server.engine.parsing.cursor import Malformed
from chatenv_server.engine.parsing.turn import ParsedTurn, ToolCall
from chatenv_server.engine.parsing.types import ToolTypes

_START, _MESSAGE, _END = "<|start|>assistant", "<|message|>", "<|end|>"
_HEADER = re.compile(r"(?:\s*to=(?P<early>[^\s<]+))?\s*<\|channel\|>(?P<channel>\w+)(?:\s+to=(?P<late>[^\s<]+))?")
_RECIPIENT = "to=functions."
_CLOSERS = (_END, "<|call|>", "<|return|>")


@dataclass(frozen=True, slots=True)
class ChannelParser:
    """Reads turns of gpt-oss."""

    opening: str = ""
    """The end of the generation prompt, as far as it belongs to the turn."""
    name: str = "channels"
    writes_ids: bool = False
    thought_opener: str = ""

    def after(self, opening: str) -> ChannelParser:
        """This parser after a generation prompt that ends in `opening`."""
        return replace(self, opening=opening)

    def typed(self, types: ToolTypes) -> ChannelParser:  # noqa: ARG002 - arguments are JSON, which says its types
        """This parser; schemas tell it nothing."""
        return self

    def parse(self, text: str) -> ParsedTurn:
        """Read one turn; never raises."""
        turn = self.opening + text
        if _MESSAGE not in turn and _RECIPIENT not in turn:
            return ParsedTurn(content=text)
        read = _Reading()
        first, *others = turn.split(_START)
        if first:
            read.message(first, first)
        for message in others:
            read.message(message, _START + message)
        return read.turn()


@dataclass(slots=True)
class _Reading:
    content: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def message(self, message: str, verbatim: str) -> None:
        header, _, body = message.partition(_MESSAGE)
        found = _HEADER.match(header)
        if found is None or _MESSAGE not in message:
            self.content.append(verbatim)
            if _RECIPIENT in header:
                self.problems.append("a tool call is cut off in its header")
            return
        text = _without_closer(body)
        recipient = found["early"] or found["late"]
        if recipient:
            self._call(recipient, text, verbatim)
        elif found["channel"] == "analysis":
            self.thoughts.append(text)
        else:
            self.content.append(text)

    def _call(self, recipient: str, arguments: str, verbatim: str) -> None:
        namespace, _, name = recipient.partition(".")
        if namespace != "functions":
            self._keep(verbatim, f"a tool call is addressed to {recipient!r}, which is no function")
            return
        try:
            self.calls.append(function_call(name, arguments))
        except Malformed as malformed:
            self._keep(verbatim, f"a tool call {malformed}")

    def _keep(self, verbatim: str, problem: str) -> None:
        self.content.append(verbatim)
        self.problems.append(problem)

    def turn(self) -> ParsedTurn:
        return ParsedTurn(
            content="".join(self.content),
            reasoning_content="\n".join(self.thoughts) if self.thoughts else None,
            tool_calls=tuple(self.calls),
            problems=tuple(self.problems),
        )


def _without_closer(body: str) -> str:
    for closer in _CLOSERS:
        if body.endswith(closer):
            return body.removesuffix(closer)
    return body
