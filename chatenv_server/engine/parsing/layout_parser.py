"""Reads turns by the layout of a template and one notation of calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from chatenv_server.engine.parsing.calls import Notation, Span
from chatenv_server.engine.parsing.layout import Layout
from chatenv_server.engine.parsing.turn import ParsedTurn
from chatenv_server.engine.parsing.types import ToolTypes


@dataclass(frozen=True, slots=True)
class LayoutParser:
    """Reads turns of an optional thought, content and calls in one notation, laid out as a template does."""

    notation: Notation
    layout: Layout
    opening: str = ""
    """The end of the generation prompt, as far as it belongs to the turn: it may have opened the thought."""
    types: ToolTypes = field(default_factory=dict)
    """The types that the tools give to their arguments."""

    @property
    def name(self) -> str:
        """The name of the notation."""
        return self.notation.name

    @property
    def thought_opener(self) -> str:
        """What stands before a thought."""
        return "" if self.layout.thought is None else self.layout.thought.opener

    @property
    def writes_ids(self) -> bool:
        """Whether ids of calls stand in turns."""
        return self.notation.writes_ids

    def after(self, opening: str) -> LayoutParser:
        """This parser after a generation prompt that ends in `opening`; one that means nothing here is left aside."""
        return replace(self, opening=opening if self.layout.knows(opening) else "")

    def typed(self, types: ToolTypes) -> LayoutParser:
        """This parser where tools give such types to their arguments."""
        return replace(self, types=types)

    def parse(self, text: str) -> ParsedTurn:
        """Read one turn; never raises. Text after or between calls is content, as text before them is."""
        split = self.layout.split(self.opening + text)
        thinks = split.reasoning is not None
        opening = "" if thinks else self.opening
        spans = self.notation.spans(split.rest, self.types)
        if not spans:
            return ParsedTurn(self.layout.content(split.rest, opening, after_thought=thinks), split.reasoning)
        calls = [span for span in spans if span.calls]
        problems = [span.problem for span in spans if span.problem]
        if not calls:
            content = self.layout.content(split.rest, opening, after_thought=thinks)
        else:
            before = split.rest[: calls[0].start]
            content = self.layout.content_before_calls(before, opening, after_thought=thinks)
            content += self._after_calls(split.rest, calls)
        return ParsedTurn(
            content=content,
            reasoning_content=split.reasoning,
            tool_calls=tuple(call for span in calls for call in span.calls),
            problems=tuple(problems),
        )

    def _after_calls(self, text: str, calls: Sequence[Span]) -> str:
        starts = [span.start for span in calls[1:]] + [len(text)]
        pieces = [text[span.end : start] for span, start in zip(calls, starts, strict=True)]
        if pieces[-1] == self.layout.end_of_calls:
            pieces.pop()
        return "".join(piece for piece in pieces if piece.strip())
