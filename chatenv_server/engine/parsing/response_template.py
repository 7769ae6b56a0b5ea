"""Parsing with the response template that a tokenizer brings along (transformers >= 5.20), where it has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatenv_server.engine.parsing.turn import ParsedTurn, ToolCall, TurnParser
from chatenv_server.engine.parsing.types import ToolTypes


@dataclass(frozen=True, slots=True)
class ResponseTemplateParser:
    """Reads turns as the tokenizer's own template says; a turn it cannot read goes to the parser that was learnt."""

    parse_response: Callable[..., Any]
    """The tokenizer's method."""
    prompt: str
    """A prompt, for what the generation prompt has opened already."""
    learnt: TurnParser
    name: str = "response_template"

    @property
    def opening(self) -> str:
        """The end of the generation prompt, as far as it belongs to the turn."""
        return self.learnt.opening

    @property
    def thought_opener(self) -> str:
        """What stands before a thought."""
        return self.learnt.thought_opener

    @property
    def writes_ids(self) -> bool:
        """Whether ids of calls stand in turns."""
        return self.learnt.writes_ids

    def after(self, opening: str) -> ResponseTemplateParser:
        """The same parser where the generation prompt ends in `opening`."""
        return replace(self, prompt=opening, learnt=self.learnt.after(opening))

    def typed(self, types: ToolTypes) -> ResponseTemplateParser:
        """The same parser where the tools give such types to their arguments."""
        return replace(self, learnt=self.learnt.typed(types))

    def parse(self, text: str) -> ParsedTurn:
        """Read one turn; never raises."""
        try:
            return _as_turn(self.parse_response(text, prefix=self.prompt))
        except Exception:  # noqa: BLE001 - whatever a template from outside does to odd text, the turn is kept
            return self.learnt.parse(text)


def _as_turn(message: Mapping[str, Any]) -> ParsedTurn:
    content = message.get("content") or ""
    reasoning = message.get("reasoning_content", message.get("thinking"))
    if not isinstance(content, str) or not isinstance(reasoning, (str, type(None))):
        raise TypeError("not a text message")
    return ParsedTurn(content, reasoning, tuple(_as_call(call) for call in message.get("tool_calls") or ()))


def _as_call(call: Mapping[str, Any]) -> ToolCall:
    function = call["function"]
    if not isinstance(function["name"], str) or not isinstance(function["arguments"], dict):
        raise TypeError("not a call with named arguments")
    return {**call, "type": "function", "function": {"name": function["name"], "arguments": function["arguments"]}}
