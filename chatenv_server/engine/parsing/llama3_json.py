"""Llama 3: a turn that is one JSON object and nothing else, sometimes after a tag.

`{"name": …, "parameters": {…}}`; an object without parameters is an answer in JSON, not a call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from chatenv_server.engine.parsing.calls import Span, call_from_json
from chatenv_server.engine.parsing.cursor import Malformed, parse_json

_BEGINS_LIKE_A_CALL = re.compile(r'\s*(?:<\|python_tag\|>\s*)?(?=\{\s*"name"\s*:)')


@dataclass(frozen=True, slots=True)
class Llama3Json:
    """The notation of Llama 3.1 and 3.2."""

    name: str = "llama3_json"

    def spans(self, text: str) -> list[Span]:
        """The whole turn, or nothing."""
        begin = _BEGINS_LIKE_A_CALL.match(text)
        if begin is None:
            return []
        try:
            value = parse_json(text[begin.end() :])
        except Malformed as malformed:
            return [Span(0, len(text), problem=f"a tool call {malformed}")]
        if "parameters" not in value and "arguments" not in value:
            return []
        try:
            return [Span(0, len(text), (call_from_json(value),))]
        except Malformed as malformed:
            return [Span(0, len(text), problem=f"a tool call {malformed}")]
