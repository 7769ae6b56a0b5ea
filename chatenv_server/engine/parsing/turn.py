"""What a sampled assistant turn says, and what every parser of turns offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from chatenv_server.engine.parsing.types import ToolTypes
from chatenv_server.values import value

ToolCall = dict[str, Any]
"""`{"type": "function", "function": {"name": str, "arguments": dict}}`, and an `"id"` if one was written."""


@value
class ParsedTurn:
    """A sampled turn in the terms of a Hugging Face message."""

    content: str
    """Everything that is neither reasoning nor a well-formed call; empty where nothing else was said."""

    reasoning_content: str | None = None
    """The thought, without its delimiters. None where there was none; may be empty."""

    tool_calls: tuple[ToolCall, ...] = ()
    """The well-formed calls, in the order in which they were written."""

    problems: tuple[str, ...] = ()
    """A sentence for each call that is malformed or cut off, and so kept in `content`."""

    def as_message(self) -> dict[str, Any]:
        """The turn as a message for `apply_chat_template`, keys of what it lacks left out."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning_content is not None:
            message["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        return message


class TurnParser(Protocol):
    """Reads sampled turns. Immutable and safe to share between threads."""

    @property
    def name(self) -> str:
        """The form of its tool calls, as `docs/tokens.md` lists them; `verbatim` where none is known."""

    @property
    def opening(self) -> str:
        """The end of the generation prompt, as far as it belongs to the turn: it may have opened the thought."""

    @property
    def thought_opener(self) -> str:
        """What stands before a thought; empty where nothing does, or no thought is known."""

    @property
    def writes_ids(self) -> bool:
        """Whether the template writes the ids of calls, so that a call has none where the turn has none."""

    def after(self, opening: str) -> TurnParser:
        """The same parser where the generation prompt ends in `opening`, such as `<think>` and a newline.

        `learn_reader` has done so for the prompt that it was given; a tool round may open turns differently.
        """

    def typed(self, types: ToolTypes) -> TurnParser:
        """The same parser where the episode's tools give such types to their arguments."""

    def parse(self, text: str) -> ParsedTurn:
        """Read one turn; never raises.

        `text` is the decoded sampled span without its final stop token; control tokens stand in it as text.
        """


@dataclass(frozen=True, slots=True)
class ProbeRender:
    """A message that the engine made up, and the turn that the template wrote for it."""

    message: Mapping[str, Any]
    text: str
